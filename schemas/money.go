package schemas

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Dollars rounds an amount to a millionth of a millionth of a dollar, which prices for a
// million tokens with up to six decimals are multiples of. Sums are rounded after every
// addition: so they are exact up to some two thousand dollars, and far under a
// millionth of a dollar off beyond.
func Dollars(f float64) float64 { return math.Round(f*1e12) / 1e12 }

// FormatDollars writes an amount for people, wherever they read one: to the cent, and below
// ten cents to two digits that say something. So "$12.00", "$0.60", "$0.02", "$0.049" and
// "$0.000031".
func FormatDollars(usd float64) string {
	sign := ""
	if usd < 0 {
		sign, usd = "-", -usd
	}
	decimals := 2
	if usd > 0 {
		// The exponent of what is left when it is rounded: 0.0999 are ten cents.
		_, exponent, _ := strings.Cut(strconv.FormatFloat(usd, 'e', 1, 64), "e")
		if e, err := strconv.Atoi(exponent); err == nil {
			decimals = max(decimals, 1-e)
		}
	}
	text := fmt.Sprintf("%s$%.*f", sign, decimals, usd)
	if decimals > 2 {
		text = strings.TrimSuffix(text, "0")
	}
	return text
}

// Cost is an amount of money and of tokens, prompt and completion together.
type Cost struct {
	USD    float64 `json:"usd,omitempty"`
	Tokens int64   `json:"tokens,omitempty"`
}

// Plus is the sum of both.
func (c Cost) Plus(o Cost) Cost { return Cost{Dollars(c.USD + o.USD), c.Tokens + o.Tokens} }

// Minus is the difference.
func (c Cost) Minus(o Cost) Cost { return Cost{Dollars(c.USD - o.USD), c.Tokens - o.Tokens} }

// Times is c n times.
func (c Cost) Times(n int64) Cost { return Cost{Dollars(c.USD * float64(n)), c.Tokens * n} }

// Max is the larger amount in each unit.
func (c Cost) Max(o Cost) Cost { return Cost{max(c.USD, o.USD), max(c.Tokens, o.Tokens)} }

// Min is the smaller amount in each unit.
func (c Cost) Min(o Cost) Cost { return Cost{min(c.USD, o.USD), min(c.Tokens, o.Tokens)} }

// Within reports whether c is at most limit, in the units in which that is not 0.
func (c Cost) Within(limit Cost) bool {
	return (limit.USD == 0 || c.USD <= limit.USD) && (limit.Tokens == 0 || c.Tokens <= limit.Tokens)
}

// String writes what is not 0 of it, such as "$3.00 and 5000 tokens".
func (c Cost) String() string { return c.In(c) }

// In writes c in the units in which limit is not 0.
func (c Cost) In(limit Cost) string {
	var parts []string
	if limit.USD != 0 {
		parts = append(parts, FormatDollars(c.USD))
	}
	if limit.Tokens != 0 {
		parts = append(parts, fmt.Sprintf("%d tokens", c.Tokens))
	}
	return strings.Join(parts, " and ")
}

// Cost is what was answered.
func (u Usage) Cost() Cost { return Cost{u.USD, u.PromptTokens + u.CompletionTokens} }

// AtMost is Cost and what requests may have cost beside it to which no answer is known.
func (u Usage) AtMost() Cost { return u.Cost().Plus(Cost{u.UnansweredUSD, u.UnansweredTokens}) }

// SumOf is what stages have taken together.
func SumOf(spent map[Stage]Usage) (u Usage) {
	for _, stage := range Stages {
		u.Add(spent[stage])
	}
	return u
}

// Costs is what each category cost.
type Costs map[Category]Cost

// Add adds a cost to a category's.
func (c *Costs) Add(category Category, cost Cost) {
	if category == "" || cost == (Cost{}) {
		return
	}
	if *c == nil {
		*c = Costs{}
	}
	(*c)[category] = (*c)[category].Plus(cost)
}

// AddAll adds o's costs.
func (c *Costs) AddAll(o Costs) {
	for _, category := range slices.Sorted(maps.Keys(o)) {
		c.Add(category, o[category])
	}
}

// Spent is what a task has taken in one execution of its stage, stored as
// runs/<run>/spent/<stage>/<started>/<key>.json before its outputs are, and whenever an
// attempt ends.
type Spent struct {
	Task  string `json:"task"`
	Payer string `json:"payer"` // the mark of its answers in the journal
	Usage Usage  `json:"usage"`
	Costs Costs  `json:"costs,omitempty"`
}

// Payer marks the answers that a task pays for in one execution of its stage.
func Payer(run RunID, stage Stage, started time.Time, key Key) string {
	return string(DigestOf([]any{run, stage, started.UTC(), key})[:16])
}
