package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"precept/schemas"
)

// Rule is one rule of a category. Acts say what the user asks for, Kinds what it
// is about; "any" stands for all, beside examples too. Purpose holds the free words between the two,
// such as "harming".
type Rule struct {
	ID      string         `json:"id"`
	Action  schemas.Action `json:"action"`
	Acts    []string       `json:"acts"`
	Purpose string         `json:"purpose,omitempty"`
	Kinds   []string       `json:"kinds"`
	Text    string         `json:"text"`

	line int
}

// document is one category file.
type document struct {
	name    string // the title
	summary string // on one line
	text    string // the whole file
	rules   []Rule
	cases   []Case
}

// Case is an example request with its decision, and the rule that makes it.
type Case struct {
	Text   string         `json:"text"`
	Action schemas.Action `json:"action"`
	Rule   string         `json:"rule"`
	Reason string         `json:"reason"`

	line int
}

// fault is what is wrong with a line.
type fault struct {
	line int
	err  error
}

func (f fault) Error() string { return fmt.Sprintf("line %d: %v", f.line, f.err) }

var (
	actions = []string{string(schemas.ActionRefuse), string(schemas.ActionSafeCompletion), string(schemas.ActionComply)}
	acts    = []string{"instructions", "plan", "text", "fiction", "definition", "fact", "opinion", "help", "any"}

	slug     = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	ruleLine = regexp.MustCompile(`^- \*\*([A-Z]{1,2}[0-9]+) ([a-z-]+)\*\* — \*([^*]+)\* about ([^*]*)\*([^*]+)\*: (\S.*)$`)
	caseLine = regexp.MustCompile(`^- "(.+)" → ([a-z-]+) \(([A-Z]{1,2}[0-9]+)\): (\S.*)$`)
	termLine = regexp.MustCompile(`^- \*\*[^*]+\*\*.*\S$`)

	// sections and responses are the headings of a category file, in order.
	sections  = []string{"Summary", "Definitions", "Rules", "How to respond", "Cases"}
	responses = []string{"Hard refusal", "Safe completion", "Comply"}
)

const (
	ruleForm = `- **V1 refuse** — *instructions, plan* about harming *person, animal*: One sentence.`
	caseForm = `- "How do I kill a frozen process?" → comply (V3): The reason.`
	termForm = `- **Term**: what it means.`
)

// normalise checks that raw is text that can stand between <policy> tags, and
// ends every line, the last one included, with one line feed.
func normalise(raw []byte) (string, error) {
	if len(raw) > maxFile {
		return "", fmt.Errorf("the file has %d bytes, at most %d are allowed: all of it goes into every request", len(raw), maxFile)
	}
	if !utf8.Valid(raw) {
		return "", errors.New("the file is not UTF-8")
	}
	text := strings.TrimPrefix(string(raw), "\ufeff")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
			return "", fault{i + 1, errors.New("a control character")}
		}
		if strings.Contains(line, "<policy") || strings.Contains(line, "</policy") {
			return "", fault{i + 1, errors.New("the tag <policy> can't be used, it encloses the policy in a request")}
		}
		lines[i] = strings.TrimRight(line, " \t")
	}
	text = strings.Trim(strings.Join(lines, "\n"), "\n")
	if text == "" {
		return "", errors.New("the file is empty")
	}
	return text + "\n", nil
}

// parseStyle checks style.md, whose only fixed form is a title.
func parseStyle(text string) error {
	title, _, _ := strings.Cut(text, "\n")
	if !strings.HasPrefix(title, "# ") {
		return fault{1, errors.New(`a title is missing, such as "# Style"`)}
	}
	return nil
}

// parseCategory reads a category file that was normalised. Where its outline is broken,
// what comes behind is not read.
func parseCategory(category schemas.Category, text string) (doc document, faults []fault) {
	doc.text = text
	broken := func(line int, format string, args ...any) (document, []fault) {
		return doc, append(faults, fault{line, fmt.Errorf(format, args...)})
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	title, ok := strings.CutPrefix(lines[0], "# ")
	if !ok {
		return broken(1, `a title is missing, such as "# Self-harm"`)
	}
	doc.name = strings.TrimSpace(title)
	if strings.ReplaceAll(strings.ToLower(doc.name), " ", "-") != string(category) {
		return broken(1, "the title %q is not the words of the file's name, %q", doc.name, category)
	}
	var (
		summary  []string
		section  = -1 // index into sections
		response = -1 // index into responses
		filled   = true
	)
	for i, line := range lines[1:] {
		n := i + 2
		wrong := func(format string, args ...any) { faults = append(faults, fault{n, fmt.Errorf(format, args...)}) }
		switch {
		case line == "":
		case strings.HasPrefix(line, "## "):
			if !filled {
				return broken(n, "the part before %q is empty", line)
			}
			if section >= 0 && sections[section] == "How to respond" && response+1 < len(responses) {
				return broken(n, "### %s is missing before %q", responses[response+1], line)
			}
			section++
			if section == len(sections) || line[3:] != sections[section] {
				return broken(n, "the heading %q; a category has ## %s, in this order", line, strings.Join(sections, ", ## "))
			}
			filled = false
		case strings.HasPrefix(line, "### "):
			if section < 0 || sections[section] != "How to respond" || (response >= 0 && !filled) {
				return broken(n, "the heading %q can't stand here", line)
			}
			response++
			if response == len(responses) || line[4:] != responses[response] {
				return broken(n, "the heading %q; How to respond has ### %s, in this order", line, strings.Join(responses, ", ### "))
			}
			filled = false
		case strings.HasPrefix(line, "#"):
			return broken(n, "the heading %q can't stand here", line)
		case section < 0:
			return broken(n, "text before ## %s", sections[0])
		default:
			filled = true
			switch sections[section] {
			case "Summary":
				summary = append(summary, strings.TrimSpace(line))
			case "Definitions":
				if !termLine.MatchString(line) {
					wrong("not a definition; one line each: %s", termForm)
				}
			case "Rules":
				rule, err := parseRule(line)
				if err != nil {
					wrong("%w", err)
					continue
				}
				rule.line = n
				doc.rules = append(doc.rules, rule)
			case "How to respond":
				if response < 0 {
					return broken(n, "text before ### %s", responses[0])
				}
			case "Cases":
				c, err := parseCase(line)
				if err != nil {
					wrong("%w", err)
					continue
				}
				c.line = n
				doc.cases = append(doc.cases, c)
			}
		}
	}
	if section < len(sections)-1 {
		return broken(len(lines), "the file ends before ## %s", sections[section+1])
	}
	if !filled {
		return broken(len(lines), "## %s is empty", sections[section])
	}
	doc.summary = strings.Join(summary, " ")
	return doc, faults
}

func parseRule(line string) (Rule, error) {
	m := ruleLine.FindStringSubmatch(line)
	if m == nil {
		return Rule{}, fmt.Errorf("not a rule; one line each: %s", ruleForm)
	}
	if !slices.Contains(actions, m[2]) {
		return Rule{}, fmt.Errorf("rule %s: the decision %q; it is one of %s", m[1], m[2], strings.Join(actions, ", "))
	}
	rule := Rule{ID: m[1], Action: schemas.Action(m[2]), Purpose: strings.TrimSpace(m[4]), Text: m[6]}
	var err error
	if rule.Acts, err = parseWords(m[3]); err != nil {
		return Rule{}, fmt.Errorf("rule %s: acts: %w", rule.ID, err)
	}
	for _, act := range rule.Acts {
		if !slices.Contains(acts, act) {
			return Rule{}, fmt.Errorf("rule %s: the act %q; it is one of %s", rule.ID, act, strings.Join(acts, ", "))
		}
	}
	if rule.Kinds, err = parseWords(m[5]); err != nil {
		return Rule{}, fmt.Errorf("rule %s: kinds: %w", rule.ID, err)
	}
	return rule, nil
}

func parseWords(list string) ([]string, error) {
	words := strings.Split(list, ", ")
	for i, word := range words {
		switch {
		case !slug.MatchString(word):
			return nil, fmt.Errorf("%q is no list of words joined by a comma and a space", list)
		case slices.Contains(words[:i], word):
			return nil, fmt.Errorf("%q stands twice", word)
		}
	}
	return words, nil
}

func parseCase(line string) (Case, error) {
	m := caseLine.FindStringSubmatch(line)
	if m == nil {
		return Case{}, fmt.Errorf("not a case; one line each: %s", caseForm)
	}
	if !slices.Contains(actions, m[2]) {
		return Case{}, fmt.Errorf("the decision %q of a case; it is one of %s", m[2], strings.Join(actions, ", "))
	}
	return Case{Text: m[1], Action: schemas.Action(m[2]), Rule: m[3], Reason: m[4]}, nil
}
