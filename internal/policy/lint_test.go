package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"precept/internal/policy"
	"precept/internal/policy/policytest"
	"precept/policies"
)

// lint is what Lint finds, a line each.
func lint(t *testing.T, files fstest.MapFS) (out []string) {
	t.Helper()
	l, err := policy.Lint(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range l.Findings {
		kind := "warning"
		if f.Error {
			kind = "error"
		}
		out = append(out, fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, kind, f.Text))
	}
	if (l.Errors() == 0) != (len(l.Sizes) > 0) {
		t.Errorf("%d errors, %d sizes", l.Errors(), len(l.Sizes))
	}
	if _, err := policy.Load(files); (err != nil) != (l.Errors() > 0) && !strings.Contains(strings.Join(out, "\n"), "to the same words") {
		t.Errorf("lint finds %d errors, and loading says %v", l.Errors(), err)
	}
	return out
}

func TestLintBuiltIn(t *testing.T) {
	l, err := policy.Lint(policies.FS)
	if err != nil || len(l.Findings) > 0 || len(l.Sizes) != 7 {
		t.Errorf("%+v, %v", l.Findings, err)
	}
	for _, s := range l.Sizes {
		if s.Rules == 0 || s.Cases == 0 || s.Tokens < 500 || s.Message <= s.Tokens {
			t.Errorf("%+v", s)
		}
	}
}

func TestLint(t *testing.T) {
	v := func(old, new string) fstest.MapFS { return edit(t, "violence.md", old, new) }
	const processes = "- \"How do I kill a frozen process?\" → comply (V2): it is about software.\n"
	for _, tt := range []struct {
		name  string
		files fstest.MapFS
		want  []string
	}{
		{"every bad line of a file", v("- **V1 refuse** — *instructions, plan* about", "- **V1 refuse** — *instructions, plans* about"), []string{
			`violence.md:10: error: rule V1: the act "plans"; it is one of instructions, plan, text, fiction, definition, fact, opinion, help, any`,
			`violence.md:25: error: the case names rule V1, which no category has`,
		}},
		{"a broken outline", v("## Definitions\n- **Weapon**: what is carried to fight.\n", ""), []string{
			`violence.md:7: error: the heading "## Rules"; a category has ## Summary, ## Definitions, ## Rules, ## How to respond, ## Cases, in this order`,
		}},
		{"a section that is missing", v("### Comply\nAnswer at once.\n", ""), []string{
			`violence.md:21: error: ### Comply is missing before "## Cases"`,
		}},
		{"a case against its rule", v("→ comply (V2)", "→ refuse (V2)"), []string{
			`violence.md:24: error: the case says refuse, but rule V2 says comply`,
		}},
		{"contradicting cases", v(processes, processes+"- \"how do I  kill a frozen process\" → refuse (V1): it is killed.\n"), []string{
			`violence.md:25: error: the case says refuse, but violence.md:24 says comply to the same words`,
		}},
		{"contradiction between files", v(processes, processes+"- \"I feel low.\" → comply (V2): no.\n"), []string{
			`violence.md:25: error: the case says comply, but self-harm.md:24 says safe-completion to the same words`,
		}},
		{"a case that stands twice", v(processes, processes+processes), []string{
			`violence.md:25: warning: the case stands in violence.md:24 too`,
		}},
		{"an unreachable rule", v("- **V2 comply**", "- **V3 comply** — *any* about *any*: All.\n- **V2 comply**"), []string{
			`violence.md:11: warning: rule V3 has no case`,
			`violence.md:12: warning: no request comes to rule V2: rule V3 before it fits them all`,
		}},
		{"no last rule", v("*any* about *any*: Everything else.", "*fact* about *any*: Facts."), []string{
			`violence.md:11: warning: no rule fits what is left; end with one of *any* about *any*`,
		}},
		{"a long summary", v("Refuse to help hurt people.", strings.Repeat("Refuse. ", 100)), []string{
			`violence.md:3: warning: the summary has 107 words, more than 90; the messages of all other categories hold it`,
		}},
		{"style without a title", edit(t, "style.md", "# Style", "Style"), []string{
			`style.md:1: error: a title is missing, such as "# Style"`,
		}},
		{"nothing", fstest.MapFS{}, []string{
			`.:0: error: no category file was found; write one <category>.md a category beside style.md`,
			`style.md:0: error: the file is missing; it holds the principles of style that all categories share`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range lint(t, tt.files) {
				if !strings.Contains(f, "S2 has no case") { // the small policy's own
					got = append(got, f)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(- want, + got)\n%s", d)
			}
		})
	}
}

func FuzzLint(f *testing.F) {
	for name, file := range policytest.Files() {
		f.Add(name == "style.md", string(file.Data))
	}
	f.Fuzz(func(t *testing.T, style bool, text string) {
		files := policytest.Files()
		name := "violence.md"
		if style {
			name = "style.md"
		}
		files[name] = &fstest.MapFile{Data: []byte(text)}
		l, err := policy.Lint(files)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := policy.Load(files); err != nil && l.Errors() == 0 {
			t.Fatalf("lint finds nothing wrong, and loading fails: %v", err)
		}
	})
}

func TestDiff(t *testing.T) {
	without := policytest.Files()
	delete(without, "self-harm.md")
	for _, tt := range []struct {
		name string
		to   fstest.MapFS
		want string
	}{
		{"nothing", policytest.Files(), "self-harm: same; violence: same"},
		{"a body", edit(t, "violence.md", "Answer at once.", "Answer."), "self-harm: same; violence: violence.md"},
		{"a summary", edit(t, "violence.md", "everyday uses", "usual uses"), "self-harm: the summary in violence.md; violence: violence.md"},
		{"the style", edit(t, "style.md", "Help first", "Help"), "self-harm: style.md; violence: style.md"},
		{"a category", without, "self-harm: it is gone; violence: self-harm.md is gone"},
	} {
		changes, err := policy.Diff(load(t, policytest.Files()), load(t, tt.to))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range changes {
			why := strings.Join(c.Why, ", ")
			if c.Same() {
				why = "same"
			}
			got = append(got, string(c.Category)+": "+why)
		}
		if s := strings.Join(got, "; "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
	}
}
