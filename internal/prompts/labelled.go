package prompts

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"precept/schemas"
)

// Labelled is an answer to a prompt, and what people said of it.
type Labelled struct {
	schemas.Prompt
	CoT    string
	Answer string // with a chain of thought in <think> where CoT is empty
	Labels []Label
}

// Label is one person's opinion: 0 is bad, 1 is good.
type Label struct {
	By    string // the column
	Score float64
}

// ScanLabelled is Scan for answers with labels: a prompt and the columns answer and, where
// there is one, cot; or a conversation that ends with the answer. Labels names the
// columns of the labels; a row may lack some of them, or all. The intent may be unknown.
func ScanLabelled(name string, file io.ReaderAt, size int64, in schemas.Import, labels []string) iter.Seq2[Labelled, error] {
	return scan("read labels", name, file, size, in, func(name string, r record, in schemas.Import) (Labelled, error) {
		return toLabelled(name, r, in, labels)
	})
}

func toLabelled(name string, r record, in schemas.Import, labels []string) (l Labelled, err error) {
	column := func(c string) string { return cmp.Or(in.Columns[c], c) }
	known := in.Intent != "" || r[column("intent")] != nil && r[column("intent")] != ""
	if !known {
		in.Intent = schemas.IntentBorderline // so that the row is a prompt
	}
	if answer, ok := r[column("answer")]; ok {
		if l.Prompt, err = toPrompt(name, r, in); err != nil {
			return l, err
		}
		if l.Answer, ok = answer.(string); !ok || strings.TrimSpace(l.Answer) == "" {
			return l, fmt.Errorf("has no answer in column %q", column("answer"))
		}
	} else {
		a, err := toAnswered(name, r, in)
		if err != nil {
			return l, fmt.Errorf("%w; an answer is looked for in column %q too (map it with columns)", err, column("answer"))
		}
		l.Prompt, l.Answer = a.Prompt, a.Target
	}
	if !known {
		l.Intent = ""
	}
	if cot, ok := r[column("cot")]; ok && cot != nil {
		if l.CoT, ok = cot.(string); !ok {
			return l, fmt.Errorf("column %q is %s, not a text", column("cot"), called(cot))
		}
	}
	for _, c := range labels {
		score, ok, err := label(r[c])
		if err != nil {
			return l, fmt.Errorf("column %q: %w", c, err)
		}
		if ok {
			l.Labels = append(l.Labels, Label{c, score})
		}
	}
	return l, nil
}

// labelWords are the words that a label may be.
var labelWords = map[string]float64{
	"kept": 1, "good": 1, "accepted": 1, "yes": 1, "true": 1, "pass": 1,
	"rejected": 0, "bad": 0, "no": 0, "false": 0, "fail": 0,
}

// label reads a label. There may be none.
func label(v any) (score float64, ok bool, err error) {
	switch v := v.(type) {
	case nil:
		return 0, false, nil
	case bool:
		if v {
			score = 1
		}
		return score, true, nil
	case float64:
		score = v
	case float32:
		score = float64(v)
	case int64:
		score = float64(v)
	case int32:
		score = float64(v)
	case string:
		word := strings.ToLower(strings.TrimSpace(v))
		if word == "" {
			return 0, false, nil
		}
		if score, ok = labelWords[word]; ok {
			return score, true, nil
		}
		if score, err = strconv.ParseFloat(word, 64); err != nil {
			return 0, false, fmt.Errorf("the label %q; it is kept or rejected, good or bad, or a score from 0 to 1", v)
		}
	default:
		return 0, false, fmt.Errorf("the label is %s; it is kept or rejected, good or bad, or a score from 0 to 1", called(v))
	}
	if !(score >= 0 && score <= 1) {
		return 0, false, fmt.Errorf("the label %v is no score from 0 to 1", v)
	}
	return score, true, nil
}

// LabelColumns are the columns of a file's first row that are taken for labels where
// nobody names any: label, and those that begin with "label_".
func LabelColumns(name string, file io.ReaderAt, size int64, in schemas.Import) ([]string, error) {
	for r, err := range records(format(name, in), file, size) {
		if err != nil {
			return nil, schemas.E("read labels", name, schemas.InvalidInput, err)
		}
		var out []string
		for _, c := range slices.Sorted(maps.Keys(r)) {
			if c == "label" || strings.HasPrefix(c, "label_") {
				out = append(out, c)
			}
		}
		return out, nil
	}
	return nil, nil
}
