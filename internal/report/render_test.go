package report

import (
	"maps"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"pgregory.net/rapid"

	"precept/schemas"
)

// pageEnv names a file to write the fixture's page to, to look at.
const pageEnv = "PRECEPT_REPORT_PAGE"

func TestRenderStructure(t *testing.T) {
	raw, err := render(fixture(asIs))
	if err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv(pageEnv); path != "" {
		if err := os.WriteFile(path, []byte(raw), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if len(raw) > 2<<20 {
		t.Errorf("the page has %d bytes, more than 2 MiB", len(raw))
	}
	doc := parse(t, raw)
	count := map[string]int{}
	ids := map[string]bool{}
	var links []string
	heading := 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		count[n.Data]++
		if id := attr(n, "id"); id != "" {
			if ids[id] {
				t.Errorf("id %q stands twice", id)
			}
			ids[id] = true
		}
		for _, a := range n.Attr {
			switch {
			case a.Key == "src" || strings.HasPrefix(a.Key, "on"):
				t.Errorf("<%s> has an attribute %s=%q", n.Data, a.Key, a.Val)
			case a.Key == "href" && !strings.HasPrefix(a.Val, "#"):
				t.Errorf("<%s> points out of the page: %q", n.Data, a.Val)
			case a.Key == "href":
				links = append(links, a.Val[1:])
			}
		}
		switch n.Data {
		case "script", "link", "iframe", "object", "base", "form":
			t.Errorf("the page has a <%s>", n.Data)
		case "svg", "img":
			if attr(n, "aria-label") == "" || attr(n, "role") != "img" {
				t.Errorf("<%s> has no label", n.Data)
			}
			if n.FirstChild == nil || n.FirstChild.Data != "title" {
				t.Errorf("<%s> has no title", n.Data)
			}
		case "th":
			if s := attr(n, "scope"); s != "row" && s != "col" {
				t.Errorf("a <th> has scope %q", s)
			}
		case "table":
			if n.FirstChild.NextSibling == nil || n.FirstChild.NextSibling.Data != "caption" {
				t.Error("a <table> has no caption")
			}
		case "h1", "h2", "h3", "h4":
			level := int(n.Data[1] - '0')
			if level > heading+1 {
				t.Errorf("<%s> %q follows a heading of level %d", n.Data, textOf(n), heading)
			}
			heading = level
		}
		if style := attr(n, "style"); strings.Contains(style, "#") || strings.Contains(style, "ZgotmplZ") {
			t.Errorf("<%s> has a colour or value of its own: %q", n.Data, style)
		}
	}
	for _, l := range links {
		if !ids[l] {
			t.Errorf("nothing has the id %q that the page points to", l)
		}
	}
	if count["h1"] != 1 || count["title"] < 1 || attr(find(doc, "html"), "lang") != "en" {
		t.Error("the page needs one h1, a title and a language")
	}
	if want := 7 + 3 + 4; count["svg"] != want { // measures, curves, milestones
		t.Errorf("%d plots, want %d", count["svg"], want)
	}
	if strings.Contains(raw, "url(") || strings.Contains(raw, "@import") {
		t.Error("the style loads something")
	}
}

func TestRenderSays(t *testing.T) {
	raw, err := render(fixture(asIs))
	if err != nil {
		t.Fatal(err)
	}
	text := textOf(find(parse(t, raw), "body"))
	for _, want := range []string{
		"Simulated models took part", "sim-teacher, sim-judge",
		"The grader is not independent",
		"the highest mean of not_unsafe and not_overrefuse", "SFT, step 33 goes on", "RL, step 0 (before)", "chance decides much",
		"base 12% (5–26) of 42; base + policy 20% (3–63) of 5, no difference from base shown; SFT 86% (72–94) of 42, better than base; RL 90% (77–97) of 42, better than base; between SFT and RL no difference shown.",
		"Against base, on the suite heldout, RL does better on harmful prompts; it does worse on look-alikes (harmless prompts that look harmful); it shows no difference on plain harmless prompts.",
		"Of 996 completions 801 passed the filter.",
		"RL 69% (53–81) of 42, worse than base",
		"171 below threshold, 22 no citation", "$1.25", "3,100,200",
		"No answer to harmful prompts", "3 of base's 42 answers to harmful prompts did nothing",
		"Looked at 20 rows.", "Not graded",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page doesn't say %q", want)
		}
	}

	d := fixture(asIs)
	d.Report.Simulated, d.Report.Evaluation.SameJudge = nil, false
	for i := range d.Report.Selections {
		d.Report.Selections[i].SameJudge = false
	}
	if raw, err = render(d); err != nil {
		t.Fatal(err)
	}
	for _, not := range []string{"Simulated", "not independent", "also filtered"} {
		if strings.Contains(raw, not) {
			t.Errorf("the page says %q without cause", not)
		}
	}
}

// Harmful prompts and complied answers are inside a closed details element.
func TestRenderFolds(t *testing.T) {
	d := fixture(asIs)
	const marked = "MARKED TEXT"
	d.Samples = []Sample{{
		Prompt: schemas.Prompt{Intent: schemas.IntentHarmful, Expected: schemas.ActionRefuse, Messages: []schemas.Message{{Role: "user", Content: marked}}},
	}, {
		Prompt: schemas.Prompt{Intent: schemas.IntentBorderline, Expected: schemas.ActionSafeCompletion, Messages: []schemas.Message{{Role: "user", Content: "asked"}}},
		Answers: []Answer{
			{Completion: schemas.Completion{Arm: "base", Answer: marked}, Grade: &schemas.Grade{Action: schemas.ActionComply}},
			{Completion: schemas.Completion{Arm: "sft", Answer: marked}}, // not graded
			{Completion: schemas.Completion{Arm: "rl", CoT: marked, Answer: "fine"}, Grade: &schemas.Grade{Action: schemas.ActionRefuse}},
		},
	}}
	d.Examples = []schemas.Example{{Intent: schemas.IntentHarmful, Prompt: []schemas.Message{{Role: "user", Content: marked}}}}
	raw, err := render(d)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for n := range parse(t, raw).Descendants() {
		if n.Type != html.TextNode || !strings.Contains(n.Data, marked) {
			continue
		}
		found++
		folded, inSummary := false, false
		for p := range n.Ancestors() {
			inSummary = inSummary || p.Data == "summary"
			folded = folded || p.Data == "details" && !hasAttr(p, "open")
		}
		if !folded || inSummary {
			t.Error("a text that may be harmful is not folded")
		}
	}
	if found != 5 {
		t.Errorf("%d marked texts, want 5", found)
	}
}

// Whatever a model writes, the page has the same elements.
func TestRenderEscapes(t *testing.T) {
	shape := func(s string, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for n := range parse(t, s).Descendants() {
			if n.Type == html.ElementNode {
				b.WriteString(n.Data)
				for _, a := range n.Attr {
					b.WriteString(" " + a.Key)
				}
				b.WriteString("\n")
			}
		}
		return b.String()
	}
	small := func(text func(string) string) Data {
		d := fixture(text)
		d.Samples = []Sample{d.Samples[0], d.Samples[3]}
		d.Examples = d.Examples[:3]
		d.Report.Evaluation.Measures = d.Report.Evaluation.Measures[:4]
		return d
	}
	want := shape(render(small(asIs)))
	pieces := rapid.SampledFrom([]string{
		"<script>alert(1)</script>", "</details>", "</style>", "</title>", "<!--", "-->", "]]>", "\"", "'", "`", "{{.}}", "&lt;", "&#60;",
		"<img src=x onerror=alert(1)>", "</svg>", "</div></main>", "javascript:alert(1)", "\x00", "\xff", "\u202e", "<think>", "</think>", "</textarea>", "x", "\n",
	})
	rapid.Check(t, func(t *rapid.T) {
		evil := strings.Join(rapid.SliceOfN(rapid.OneOf(pieces, rapid.String()), 1, 8).Draw(t, "text"), "")
		// The neutral text stays, so that nothing is left out for being empty.
		if got := shape(render(small(func(s string) string { return s + evil }))); got != want {
			t.Errorf("%q changed the page's elements", evil)
		}
	})
}

// Names reach the plots, too.
func TestPlotEscapes(t *testing.T) {
	d := fixture(asIs)
	for i := range d.Report.Evaluation.Measures {
		m := &d.Report.Evaluation.Measures[i]
		m.Arm, m.Suite, m.Name = schemas.Arm(`"><script>a</script>`+string(m.Arm)), `</svg><script>s</script>`, m.Name+`"><script>n</script>`
	}
	raw, err := render(d)
	if err != nil {
		t.Fatal(err)
	}
	if n := find(parse(t, raw), "script"); n != nil {
		t.Errorf("the page has a script: %q", textOf(n))
	}
}

// Curves come from a trainer: no figures make the plots fail.
func TestRenderAnyCurve(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{0, 1, math.NaN(), math.Inf(1), math.MaxFloat64, 1e12, 5e-324}))
		var curve []schemas.CurvePoint
		for range rapid.IntRange(0, 1000).Draw(t, "points") % 20 {
			curve = append(curve, schemas.CurvePoint{Step: rapid.Int().Draw(t, "step"), Metrics: map[string]float64{
				"loss": value.Draw(t, "loss"), "reward": value.Draw(t, "reward"), "reward_std": value.Draw(t, "std"),
				"reward/violence": value.Draw(t, "violence"), "rewards/compliance/mean": value.Draw(t, "compliance"),
			}})
		}
		d := Data{Manifests: []schemas.Manifest{{Stage: schemas.StageSFT, Curve: curve}, {Stage: schemas.StageRL, Curve: curve}}}
		if raw, err := render(d); err != nil || strings.Contains(raw, "NaN") {
			t.Errorf("%v: %v", curve, err)
		}
	})
}

func TestRewardParts(t *testing.T) {
	point := func(step int, compliance float64, more map[string]float64) schemas.CurvePoint {
		metrics := map[string]float64{"reward": 1, "rewards/compliance/mean": compliance, "rewards/compliance/std": 0.3}
		maps.Copy(metrics, more)
		return schemas.CurvePoint{Step: step, Metrics: metrics}
	}
	curve := []schemas.CurvePoint{
		point(1, 0, map[string]float64{"reward/self-harm": 0}),
		point(2, 0.5, map[string]float64{"reward/violence": 0.25, "rewards/format/mean": 1}),
		point(3, 1, map[string]float64{"reward/violence": 0.75}),
	}
	const want = " In the second half of the steps, by term: compliance 0.75, format 1.00; by category: violence 0.50."
	if got := rewardParts(curve); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := rewardParts([]schemas.CurvePoint{{Step: 1, Metrics: map[string]float64{"reward": 1}}}); got != "" {
		t.Errorf("got %q of a curve without parts", got)
	}
}

func TestRenderLongCurve(t *testing.T) {
	var curve []schemas.CurvePoint
	for i := range 100_000 {
		curve = append(curve, schemas.CurvePoint{Step: i, Metrics: map[string]float64{"loss": float64(i % 7)}})
	}
	raw, err := render(Data{Manifests: []schemas.Manifest{{Stage: schemas.StageSFT, Curve: curve}}})
	if err != nil || len(raw) > 100<<10 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

func TestRenderLittle(t *testing.T) {
	if _, err := render(Data{}); err != nil {
		t.Error(err)
	}
	_, err := render(Data{SpecJSON: []byte("{")})
	if schemas.KindOf(err) != schemas.InvalidInput {
		t.Errorf("a broken specification gives %v", err)
	}
	d := fixture(asIs)
	again, _ := render(d)
	if once, _ := render(d); once != again {
		t.Error("the same data gives two pages")
	}
}

func parse(t interface{ Fatal(...any) }, raw string) *html.Node {
	doc, err := html.Parse(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func find(doc *html.Node, tag string) *html.Node {
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == tag {
			return n
		}
	}
	return nil
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func hasAttr(n *html.Node, key string) bool {
	for _, a := range n.Attr {
		if a.Key == key {
			return true
		}
	}
	return false
}

func textOf(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func TestAgreementOnLabelsIsShown(t *testing.T) {
	d := fixture(asIs)
	if raw, err := render(d); err != nil || strings.Contains(string(raw), "labelled prompts") {
		t.Errorf("shown where nothing was checked: %v", err)
	}
	d.Manifests[0].Check = &schemas.LabelCheck{
		Category:   schemas.LabelFigure{N: 40, Agree: 31, Kappa: new(0.714)},
		Intent:     schemas.LabelFigure{N: 40, Agree: 29, Kappa: new(0.5)},
		ByCategory: map[schemas.Category]schemas.CategoryCheck{"self-harm": {Labelled: 22, Told: 23, Agree: 17}},
	}
	raw, err := render(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"40 labelled prompts were told to be of the same category 31 times (kappa 0.71) and of the same intent 29 times (kappa 0.50)",
		`<th scope="row">self harm</th><td class="n">22</td><td class="n">23</td><td class="n">17</td>`,
	} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
