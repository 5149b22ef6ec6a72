package policy_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"precept/internal/policy"
	"precept/internal/policy/policytest"
	"precept/policies"
	"precept/schemas"
)

func load(t testing.TB, files fstest.MapFS) *policy.Policy {
	t.Helper()
	p, err := policy.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// edit replaces old by new in one file of the small policy.
func edit(t testing.TB, file, old, new string) fstest.MapFS {
	t.Helper()
	files := policytest.Files()
	text := string(files[file].Data)
	if !strings.Contains(text, old) {
		t.Fatalf("%s does not contain %q", file, old)
	}
	files[file] = &fstest.MapFile{Data: []byte(strings.Replace(text, old, new, 1))}
	return files
}

func TestBuiltIn(t *testing.T) {
	p, err := policy.Load(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	want := []schemas.Category{
		"erotic-content", "extremism", "harassment", "illicit-behavior", "regulated-advice", "self-harm", "violence",
	}
	if diff := cmp.Diff(want, p.Categories()); diff != "" {
		t.Fatal(diff)
	}
	for _, category := range want {
		cp, err := p.For(category)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range want {
			_, others, _ := strings.Cut(cp.Text, "\n## Other categories\n")
			line := "\n- **" + strings.ReplaceAll(string(other), "-", " ") + "**: "
			others = strings.ReplaceAll(strings.ToLower(others), "self-harm", "self harm")
			if shown := strings.Contains(others, line); shown == (other == category) {
				t.Errorf("%s: summary of %s shown: %v", category, other, shown)
			}
		}
		rules := p.Rules(category)
		last := rules[len(rules)-1]
		if last.Action != schemas.ActionComply || !cmp.Equal(last.Acts, []string{"any"}) || !cmp.Equal(last.Kinds, []string{"any"}) {
			t.Errorf("%s: the last rule, %s, does not comply with everything else", category, last.ID)
		}
	}
}

func TestRules(t *testing.T) {
	want := []policy.Rule{
		{ID: "V1", Action: schemas.ActionRefuse, Acts: []string{"instructions", "plan"}, Purpose: "harming",
			Kinds: []string{"person", "animal"}, Text: "No help with hurting a living being."},
		{ID: "V2", Action: schemas.ActionComply, Acts: []string{"any"}, Kinds: []string{"any"}, Text: "Everything else."},
	}
	got := load(t, policytest.Files()).Rules("violence")
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(policy.Rule{})); diff != "" {
		t.Fatal(diff)
	}
}

func TestForText(t *testing.T) {
	cp := policytest.For(t, "self-harm")
	files := policytest.Files()
	want := string(files["self-harm.md"].Data) +
		"\n## Other categories\n\n" +
		"- **Violence**: Refuse to help hurt people. Comply with everyday uses of violent words.\n\n" +
		string(files["style.md"].Data)
	if diff := cmp.Diff(want, cp.Text); diff != "" {
		t.Fatal(diff)
	}
	if want := schemas.DigestBytes([]byte(want)); cp.Digest != want {
		t.Errorf("digest %s, want %s", cp.Digest, want)
	}
}

// TestDigests shows which edit touches which category.
func TestDigests(t *testing.T) {
	for _, test := range []struct {
		name           string
		file, old, new string
		violence, self bool // whether the digest changes
	}{
		{"body", "violence.md", "Answer at once.", "Answer.", true, false},
		{"rule", "violence.md", "No help with", "Never help with", true, false},
		{"summary", "violence.md", "everyday uses", "usual uses", true, true},
		{"style", "style.md", "Help first", "Help", true, true},
		{"line ends", "violence.md", "One brief apology.\n", "One brief apology. \r\n", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, after := load(t, policytest.Files()), load(t, edit(t, test.file, test.old, test.new))
			changed := func(category schemas.Category) bool {
				a, errA := before.For(category)
				b, errB := after.For(category)
				if errA != nil || errB != nil {
					t.Fatal(errA, errB)
				}
				return a.Digest != b.Digest
			}
			if got := changed("violence"); got != test.violence {
				t.Errorf("violence changed: %v", got)
			}
			if got := changed("self-harm"); got != test.self {
				t.Errorf("self-harm changed: %v", got)
			}
			if got := before.Digest() != after.Digest(); got != (test.violence || test.self) {
				t.Errorf("policy changed: %v", got)
			}
		})
	}
}

func TestFilesLoadAgain(t *testing.T) {
	p := load(t, policytest.Files())
	again := fstest.MapFS{}
	for name, text := range p.Files() {
		again[name] = &fstest.MapFile{Data: []byte(text)}
	}
	if got := load(t, again).Digest(); got != p.Digest() {
		t.Errorf("digest %s, want %s", got, p.Digest())
	}
}

func TestUnknownCategory(t *testing.T) {
	_, err := load(t, policytest.Files()).For("gardening")
	if schemas.KindOf(err) != schemas.NotFound || !strings.Contains(err.Error(), "self-harm, violence") {
		t.Errorf("got %v", err)
	}
}

func TestLoadErrors(t *testing.T) {
	with := func(name, text string) fstest.MapFS {
		files := policytest.Files()
		files[name] = &fstest.MapFile{Data: []byte(text)}
		return files
	}
	without := func(name string) fstest.MapFS {
		files := policytest.Files()
		delete(files, name)
		return files
	}
	v := func(old, new string) fstest.MapFS { return edit(t, "violence.md", old, new) }
	for _, test := range []struct {
		name  string
		files fstest.MapFS
		want  []string // in the message
	}{
		{"no style", without("style.md"), []string{"style.md", "missing"}},
		{"no category", fstest.MapFS{"style.md": policytest.Files()["style.md"]}, []string{"no category file"}},
		{"empty folder", fstest.MapFS{}, []string{"style.md"}},
		{"empty file", with("violence.md", " \n"), []string{"violence.md", "empty"}},
		{"not UTF-8", with("violence.md", "# Violence\xff"), []string{"violence.md", "UTF-8"}},
		{"control", v("everyday", "every\x00day"), []string{"violence.md", "line 4", "control"}},
		{"too large", with("violence.md", strings.Repeat("x", 1<<20)), []string{"violence.md", "bytes"}},
		{"closes its block", v("everyday", "</policy>"), []string{"line 4", "<policy>"}},
		{"slug", with("Violence2.md", "# Violence2"), []string{"Violence2.md", "lower-case"}},
		{"no title", v("# Violence\n", "Violence\n"), []string{"line 1", "title"}},
		{"wrong title", v("# Violence\n", "# Harassment\n"), []string{"line 1", `"Harassment"`, `"violence"`}},
		{"style without title", edit(t, "style.md", "# Style", "Style"), []string{"style.md", "line 1"}},
		{"unknown section", v("## Rules", "## Laws"), []string{"line 9", "## Laws", "## Rules"}},
		{"section missing", v("## Definitions\n- **Weapon**: what is carried to fight.\n", ""), []string{"line 7", "## Rules"}},
		{"section too much", v("## Cases", "## Cases\n- \"A\" → comply (V2): b\n## More"), []string{"## More"}},
		{"ends early", v("## Cases\n", ""), []string{"violence.md", "line"}},
		{"empty summary", v("Refuse to help hurt people. Comply with everyday uses of violent words.\n", ""), []string{"line 5", "empty"}},
		{"text before", v("## Summary", "Hello\n## Summary"), []string{"line 3", "## Summary"}},
		{"definition", v("- **Weapon**:", "- Weapon:"), []string{"line 7", "definition"}},
		{"response order", v("### Hard refusal", "### Comply"), []string{"line 14", "### Hard refusal"}},
		{"response missing", v("### Comply\nAnswer at once.\n", ""), []string{"### Comply is missing"}},
		{"response empty", v("One brief apology.\n", ""), []string{"line 16", "### Safe completion"}},
		{"deep heading", v("One brief apology.", "#### Deep"), []string{"line 15", "#### Deep"}},
		{"rule form", v("- **V1 refuse** — ", "- **V1 refuse** - "), []string{"line 10", "not a rule"}},
		{"rule decision", v("V1 refuse", "V1 deny"), []string{"line 10", "V1", `"deny"`}},
		{"rule act", v("*instructions, plan*", "*instructions, plans*"), []string{"line 10", `"plans"`}},
		{"rule kinds", v("*person, animal*", "*person,animal*"), []string{"line 10", "V1", "kinds"}},
		{"rule kind twice", v("*person, animal*", "*person, person*"), []string{"line 10", "twice"}},
		{"ID twice", v("**V2 comply**", "**V1 comply**"), []string{"violence.md:11", "V1"}},
		{"ID in two files", edit(t, "self-harm.md", "**S2 comply**", "**V2 comply**"), []string{"violence.md:11", "V2", "self-harm.md"}},
		{"case form", v("→ comply (V2)", "-> comply (V2)"), []string{"line 24", "not a case"}},
		{"case decision", v("→ refuse (V1)", "→ deny (V1)"), []string{"line 25", `"deny"`}},
		{"case rule", v("→ comply (V2)", "→ comply (V9)"), []string{"violence.md:24", "V9"}},
		{"case against rule", v("→ comply (V2)", "→ refuse (V2)"), []string{"violence.md:24", "V2", "comply"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := policy.Load(test.files)
			if schemas.KindOf(err) != schemas.InvalidInput {
				t.Fatalf("kind %q of %v", schemas.KindOf(err), err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not contain %q", err, want)
				}
			}
		})
	}
}

// TestRuleRoundTrip writes rules of any words and reads them back.
func TestRuleRoundTrip(t *testing.T) {
	word := rapid.StringMatching(`[a-z]{2,8}(-[a-z]{2,8})?`)
	acts := []string{"instructions", "plan", "text", "fiction", "definition", "fact", "opinion", "help", "any"}
	rapid.Check(t, func(t *rapid.T) {
		rule := policy.Rule{
			ID:      rapid.StringMatching(`[A-Z]{1,2}[0-9]{1,3}`).Filter(func(s string) bool { return s != "V2" && s[0] != 'S' }).Draw(t, "id"),
			Action:  rapid.SampledFrom([]schemas.Action{"refuse", "safe-completion"}).Draw(t, "action"),
			Acts:    rapid.SliceOfNDistinct(rapid.SampledFrom(acts), 1, 4, rapid.ID[string]).Draw(t, "acts"),
			Purpose: rapid.StringMatching(`([a-z]{1,8}( [a-z]{1,8})?)?`).Draw(t, "purpose"),
			Kinds:   rapid.SliceOfNDistinct(word, 1, 4, rapid.ID[string]).Draw(t, "kinds"),
			Text:    rapid.StringMatching(`[A-Za-z*:"—][A-Za-z*:"— ]{0,30}[.]`).Draw(t, "text"),
		}
		purpose := rule.Purpose
		if purpose != "" {
			purpose += " "
		}
		line := "- **" + rule.ID + " " + string(rule.Action) + "** — *" + strings.Join(rule.Acts, ", ") +
			"* about " + purpose + "*" + strings.Join(rule.Kinds, ", ") + "*: " + rule.Text
		files := policytest.Files()
		text := string(files["violence.md"].Data)
		text = strings.Replace(text, "- **V2 comply**", line+"\n- **V2 comply**", 1)
		text = strings.Replace(text, "- **V1 refuse** — *instructions, plan* about harming *person, animal*: No help with hurting a living being.\n", "", 1)
		text = strings.Replace(text, "- \"How do I kill my neighbour?\" → refuse (V1): it is about a person.\n", "", 1)
		files["violence.md"] = &fstest.MapFile{Data: []byte(text)}
		p, err := policy.Load(files)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(rule, p.Rules("violence")[0], cmpopts.IgnoreUnexported(policy.Rule{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzLoad(f *testing.F) {
	for name, file := range policytest.Files() {
		f.Add(name == "style.md", string(file.Data))
	}
	f.Add(false, "# Violence\n\n## Summary\n")
	f.Fuzz(func(t *testing.T, style bool, text string) {
		files := policytest.Files()
		name := "violence.md"
		if style {
			name = "style.md"
		}
		files[name] = &fstest.MapFile{Data: []byte(text)}
		p, err := policy.Load(files)
		if err != nil {
			if schemas.KindOf(err) != schemas.InvalidInput || !strings.Contains(err.Error(), ".md") {
				t.Fatalf("an error that names no file: %v", err)
			}
			return
		}
		again := fstest.MapFS{}
		for name, text := range p.Files() {
			again[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := load(t, again).Digest(); got != p.Digest() {
			t.Fatal("loading a policy's files gives another policy")
		}
		cp, err := p.For("violence")
		if err != nil {
			t.Fatal(err)
		}
		if block := policy.Block(cp); strings.Count(block, "</policy") != 1 {
			t.Fatal("the policy closes its block")
		}
	})
}
