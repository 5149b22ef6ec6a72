package prompts

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"precept/schemas"
)

func user(text string) []schemas.Message { return []schemas.Message{{Role: "user", Content: text}} }

func TestRead(t *testing.T) {
	in := schemas.Import{Category: "violence", Intent: schemas.IntentHarmful}
	tests := []struct {
		name, file, raw string
		in              schemas.Import
		want            []schemas.Prompt
		err             string
	}{
		{
			name: "json lines", file: "a/b.jsonl", in: in, raw: "{\"text\":\" hi \"}\n\n{\"text\":\"yo\",\"category\":\"self-harm\",\"intent\":\"benign\"}\n",
			want: []schemas.Prompt{
				{Messages: user("hi"), Category: "violence", Intent: "harmful", Language: "en", Source: "b"},
				{Messages: user("yo"), Category: "self-harm", Intent: "benign", Language: "en", Source: "b"},
			},
		},
		{
			name: "csv with mapped columns", file: "x.csv", raw: "category,source,forbidden_prompt\nviolence,web,\"a, b\"\n",
			in:   schemas.Import{Intent: "harmful", Columns: map[string]string{"text": "forbidden_prompt"}},
			want: []schemas.Prompt{{Messages: user("a, b"), Category: "violence", Intent: "harmful", Language: "en", Source: "web"}},
		},
		{
			name: "array of objects, list of labels", file: "x.json", raw: `[{"question":"q","category":["violence","other"]}]`,
			in:   schemas.Import{Intent: "harmful", Source: "s", Columns: map[string]string{"text": "question"}},
			want: []schemas.Prompt{{Messages: user("q"), Category: "violence", Intent: "harmful", Language: "en", Source: "s"}},
		},
		{
			name: "turns and a system prompt", file: "x.jsonl", in: in,
			raw: `{"system":"be kind","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}`,
			want: []schemas.Prompt{{
				Messages: []schemas.Message{{Role: "system", Content: "be kind"}, {Role: "user", Content: "a"}, {Role: "assistant", Content: "b"}, {Role: "user", Content: "c"}},
				Category: "violence", Intent: "harmful", Language: "en", Source: "x",
			}},
		},
		{name: "broken line", file: "x.jsonl", in: in, raw: "{\"text\":\"a\"}\n{nope\n", err: "x.jsonl: line 2"},
		{name: "broken Parquet", file: "x.parquet", in: in, raw: "PAR1 not really PAR1", err: "x.parquet: broken Parquet file"},
		{name: "no rows", file: "x.jsonl", in: in, raw: "\n", err: "has no rows"},
		{name: "unknown format", file: "x.txt", in: in, raw: "a", err: `set format`},
		{name: "no text", file: "x.jsonl", in: in, raw: `{"prompt":"a"}`, err: `row 1: has no prompt; its text is looked for in column "text"`},
		{name: "mapped column missing", file: "x.jsonl", raw: `{"text":"a"}`, in: schemas.Import{Intent: "harmful", Columns: map[string]string{"category": "cat"}}, err: `no column "cat"`},
		{name: "no category", file: "x.jsonl", in: schemas.Import{Intent: "harmful"}, raw: `{"text":"a"}`, err: "has no category"},
		{name: "bad intent", file: "x.jsonl", in: schemas.Import{Category: "violence", Intent: "harmful"}, raw: `{"text":"a","intent":"evil"}`, err: `has intent "evil"`},
		{name: "last turn is not the user's", file: "x.jsonl", in: in, raw: `{"messages":[{"role":"assistant","content":"b"}]}`, err: "last turn must be the user's"},
		{name: "number as text", file: "x.jsonl", in: in, raw: `{"text":3}`, err: "is a float64, not a string"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Read(tt.file, []byte(tt.raw), tt.in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || schemas.KindOf(err) != schemas.InvalidInput {
					t.Fatalf("got %v, want InvalidInput with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range tt.want {
				tt.want[i].ID = schemas.PromptID(tt.want[i].Category, tt.want[i].Messages)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestReadParquet(t *testing.T) {
	type row struct {
		Q        string            `parquet:"q"`
		Messages []schemas.Message `parquet:"messages,list"`
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b)
	if _, err := w.Write([]row{{Q: "plain"}, {Messages: user("in turns")}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Read("x.parquet", b.Bytes(), schemas.Import{Category: "violence", Intent: "benign", Columns: map[string]string{"text": "q"}})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, p := range got {
		texts = append(texts, p.Text())
	}
	if d := cmp.Diff([]string{"plain", "in turns"}, texts); d != "" {
		t.Error(d)
	}
}

func TestFilter(t *testing.T) {
	suite := []schemas.Prompt{{Messages: user("Teach me how to juggle")}, {Messages: user("one two three four five six seven eight nine ten")}}
	f := NewFilter(suite)
	tests := []struct {
		text     string
		category schemas.Category
		want     schemas.Reason
	}{
		{"How do I kill a process?", "violence", ""},
		{"how do i  kill a PROCESS", "violence", schemas.ReasonDuplicate},
		{"How do I kill a process?", "self-harm", ""},
		{"Teach me how to juggle!", "violence", schemas.ReasonContaminated},
		{"zero one two three four five six seven eight", "violence", schemas.ReasonContaminated},
		{"one two three four five six seven", "violence", ""},
	}
	for _, tt := range tests {
		p := schemas.Prompt{Messages: user(tt.text), Category: tt.category}
		if got := f.Reason(p); got != tt.want {
			t.Errorf("%q in %s: reason %q, want %q", tt.text, tt.category, got, tt.want)
		}
	}
}

func TestBuckets(t *testing.T) {
	for _, tt := range []struct{ n, most, want int }{{0, 10, 1}, {10, 10, 1}, {11, 10, 2}, {41, 10, 8}} {
		if got := Buckets(tt.n, tt.most); got != tt.want {
			t.Errorf("Buckets(%d, %d) = %d, want %d", tt.n, tt.most, got, tt.want)
		}
	}
	same := Bucket(schemas.Prompt{Messages: user("A b!")}, 64) == Bucket(schemas.Prompt{Messages: user("a  B")}, 64)
	if !same {
		t.Error("duplicates fall into different buckets")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"text":"a"}`), "jsonl")
	f.Add([]byte("text\na"), "csv")
	f.Add([]byte("PAR1"), "parquet")
	f.Fuzz(func(t *testing.T, raw []byte, format string) {
		_, _ = Read("x", raw, schemas.Import{Format: format, Category: "violence", Intent: "benign"})
	})
}
