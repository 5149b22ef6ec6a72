package prompts

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"precept/schemas"
)

func labelled(name, text string, in schemas.Import, labels ...string) (rows []Labelled, err error) {
	for row, err := range ScanLabelled(name, strings.NewReader(text), int64(len(text)), in, labels) {
		if err != nil {
			return rows, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func TestScanLabelled(t *testing.T) {
	const (
		csv   = "question,answer,cot,category,label_ann,label_bob\nA?,B.,Because.,violence,kept,0.2\nC?,D.,,violence,,bad\n"
		jsonl = `{"messages":[{"role":"user","content":"A?"},{"role":"assistant","content":"<think>Because.</think>B."}],"category":"violence","intent":"harmful","label":true}`
	)
	got, err := labelled("x.csv", csv, schemas.Import{Columns: map[string]string{"text": "question"}}, "label_ann", "label_bob")
	if err != nil || len(got) != 2 {
		t.Fatalf("%d rows, %v", len(got), err)
	}
	if d := cmp.Diff([]Label{{"label_ann", 1}, {"label_bob", 0.2}}, got[0].Labels); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Label{{"label_bob", 0}}, got[1].Labels); d != "" {
		t.Error(d)
	}
	if r := got[0]; r.Text() != "A?" || r.Answer != "B." || r.CoT != "Because." || r.Intent != "" {
		t.Errorf("%+v", r)
	}
	got, err = labelled("x.jsonl", jsonl, schemas.Import{}, "label")
	if err != nil || len(got) != 1 {
		t.Fatalf("%d rows, %v", len(got), err)
	}
	if r := got[0]; r.Text() != "A?" || r.Answer != "<think>Because.</think>B." || r.Intent != schemas.IntentHarmful || r.Labels[0].Score != 1 {
		t.Errorf("%+v", r)
	}
}

func TestScanLabelledParquet(t *testing.T) {
	type row struct {
		Text     string  `parquet:"text"`
		Answer   string  `parquet:"answer"`
		Category string  `parquet:"category"`
		Label    float64 `parquet:"label"`
	}
	var b bytes.Buffer
	if err := parquet.Write(&b, []row{{"A?", "B.", "violence", 0.75}}); err != nil {
		t.Fatal(err)
	}
	columns, err := LabelColumns("x.parquet", bytes.NewReader(b.Bytes()), int64(b.Len()), schemas.Import{})
	if err != nil || !cmp.Equal(columns, []string{"label"}) {
		t.Errorf("columns %v, %v", columns, err)
	}
	got, err := labelled("x.parquet", b.String(), schemas.Import{}, columns...)
	if err != nil || len(got) != 1 || got[0].Labels[0].Score != 0.75 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLabels(t *testing.T) {
	for _, tt := range []struct {
		v     any
		score float64
		ok    bool
		bad   string // in the error
	}{
		{"Kept", 1, true, ""}, {"rejected", 0, true, ""}, {" good ", 1, true, ""}, {"bad", 0, true, ""},
		{true, 1, true, ""}, {false, 0, true, ""}, {0.4, 0.4, true, ""}, {"0.4", 0.4, true, ""}, {int64(1), 1, true, ""},
		{nil, 0, false, ""}, {"", 0, false, ""},
		{"fine", 0, false, `"fine"`}, {7.0, 0, false, "7"}, {"-1", 0, false, "-1"}, {"NaN", 0, false, "NaN"}, {[]any{}, 0, false, "the label is a list"},
	} {
		score, ok, err := label(tt.v)
		if score != tt.score && tt.bad == "" || ok != tt.ok || (err != nil) != (tt.bad != "") || err != nil && !strings.Contains(err.Error(), tt.bad) {
			t.Errorf("%v: %v, %v, %v", tt.v, score, ok, err)
		}
	}
}

func TestScanLabelledErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no answer", `{"text":"A?","category":"violence","label":1}`, `column "answer"`},
		{"an empty one", `{"text":"A?","answer":" ","category":"violence","label":1}`, "no answer"},
		{"no category", `{"text":"A?","answer":"B.","label":1}`, "no category"},
		{"a label of another kind", `{"text":"A?","answer":"B.","category":"violence","label":"so so"}`, `column "label": the label "so so"`},
		{"thoughts that are none", `{"text":"A?","answer":"B.","cot":3,"category":"violence"}`, `column "cot"`},
	} {
		_, err := labelled("x.jsonl", tt.text, schemas.Import{}, "label")
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "row 1") || schemas.KindOf(err) != schemas.InvalidInput {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
