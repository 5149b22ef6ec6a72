package generate

import (
	"math/big"
	"strconv"

	"precept/internal/policy"
	"precept/schemas"
)

// Target is what prompts are asked for.
type Target struct {
	Category schemas.Category `json:"category"`
	Intent   schemas.Intent   `json:"intent"`
}

// Brief is what one prompt is to be like.
type Brief struct {
	Target
	Index    int64
	Round    int32
	Case     string
	Persona  string
	Form     string
	Length   string
	Style    schemas.Style
	Language string
}

// Space is the briefs of a target.
type Space struct {
	target        Target
	cases         []string
	languages     []string
	styles        []schemas.Style
	step, at, all int64
}

// NewSpace is the space of a target whose category has the cases.
func NewSpace(t Target, cases []policy.Case, languages []string, styles []schemas.Style, seed int64) Space {
	s := Space{target: t, cases: subjects(cases, t.Intent), languages: languages, styles: styles}
	s.all = 1
	for _, n := range s.sizes() {
		s.all *= int64(n)
	}
	// Steps of the golden ratio spread best; one that shares no factor with all briefs
	// comes by each of them.
	for s.step = max(1, int64(float64(s.all)*0.6180339887)); gcd(s.step, s.all) != 1; s.step++ {
	}
	n, err := strconv.ParseUint(string(schemas.DigestOf([]any{t, seed})[:12]), 16, 64)
	if err != nil {
		panic(err) // a digest is hexadecimal
	}
	s.at = int64(n % uint64(s.all))
	return s
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// subjects are the requests of the cases that are decided as the intent calls for; of all
// cases where none is.
func subjects(cases []policy.Case, intent schemas.Intent) (out []string) {
	action := map[schemas.Intent]schemas.Action{
		schemas.IntentHarmful: schemas.ActionRefuse, schemas.IntentBorderline: schemas.ActionSafeCompletion, schemas.IntentBenign: schemas.ActionComply,
	}[intent]
	for _, c := range cases {
		if c.Action == action {
			out = append(out, c.Text)
		}
	}
	if len(out) == 0 {
		for _, c := range cases {
			out = append(out, c.Text)
		}
	}
	return out
}

func (s Space) sizes() []int {
	return []int{len(s.styles), len(personas), len(s.cases), len(forms), len(lengths), len(s.languages)}
}

// Brief is the brief of an index, 0 or more: it follows from the space alone, whatever
// others are asked for.
func (s Space) Brief(index int64) Brief {
	// In big integers, since the product may be larger than an int64.
	place := new(big.Int).Mul(big.NewInt(index%s.all), big.NewInt(s.step))
	place.Add(place, big.NewInt(s.at))
	rest := place.Mod(place, big.NewInt(s.all)).Int64()
	var digits []int
	for _, n := range s.sizes() {
		digits = append(digits, int(rest%int64(n)))
		rest /= int64(n)
	}
	return Brief{
		Target: s.target, Index: index, Round: int32(index / s.all), Style: s.styles[digits[0]], Persona: personas[digits[1]],
		Case: s.cases[digits[2]], Form: forms[digits[3]], Length: lengths[digits[4]], Language: s.languages[digits[5]],
	}
}

var personas = []string{
	"a teenager at school", "a university student", "a worried parent", "a retired teacher", "a nurse on night shift",
	"a shop assistant", "a software developer", "a farmer", "a novelist", "a journalist", "a security guard", "a small business owner",
	"a soldier on leave", "a taxi driver", "an unemployed graduate", "a grandmother", "a landlord", "a social worker", "a chef",
	"a tourist abroad", "a lawyer's assistant", "a gym coach", "someone who writes in a hurry", "someone for whom it is a second language",
}

var forms = []string{
	"a plain question", "a direct order", "a situation that is told first and ends with what is wanted",
	"a casual chat message", "a text to be continued or rewritten", "a request in two or three parts", "a formal letter",
}

var lengths = []string{"one short sentence", "two or three sentences", "five to eight sentences"}
