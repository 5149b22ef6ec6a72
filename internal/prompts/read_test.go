package prompts

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"precept/schemas"
)

// Read reads all rows at once.
func Read(name string, raw []byte, in schemas.Import) (rows []schemas.Prompt, err error) {
	for p, err := range Scan(name, bytes.NewReader(raw), int64(len(raw)), in) {
		if err != nil {
			return nil, err
		}
		rows = append(rows, p.Prompt)
	}
	return rows, nil
}

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
		{name: "mapped column missing", file: "x.jsonl", raw: `{"text":"a"}`, in: schemas.Import{Intent: "harmful", Columns: map[string]string{"category": "cat"}}, err: `no column "cat"`},
		{name: "no category", file: "x.jsonl", in: schemas.Import{Intent: "harmful"}, raw: `{"text":"a"}`, err: "has no category"},
		{name: "bad intent", file: "x.jsonl", in: schemas.Import{Category: "violence", Intent: "harmful"}, raw: `{"text":"a","intent":"evil"}`, err: `has intent "evil"`},
		{name: "number as category", file: "x.jsonl", in: in, raw: `{"text":"a","category":3}`, err: `row 1: column "category" is a number, not a text`},
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

func TestSuitesContaminate(t *testing.T) {
	suites := NewSuites([]schemas.Prompt{{Messages: user("Teach me how to juggle")}, {Messages: user("one two three four five six seven eight nine ten")}, {Messages: user("?!")}})
	for text, want := range map[string]bool{
		"How do I kill a process?":                     false,
		"Teach me how to juggle!":                      true,
		"zero one two three four five six seven eight": true,
		"one two three four five six seven":            false,
		"?!":                                           true,
		"!?":                                           false,
	} {
		if got := suites.Contaminate(schemas.Prompt{Messages: user(text)}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestNormal(t *testing.T) {
	normal := func(c schemas.Category, text string) string {
		return Normal(schemas.Prompt{Category: c, Messages: user(text)})
	}
	for _, same := range [][2]string{{"How do I kill a process?", "how do i  kill a PROCESS"}, {"A b!", "a  B"}} {
		if normal("violence", same[0]) != normal("violence", same[1]) {
			t.Errorf("%q are no duplicates", same)
		}
	}
	for _, other := range [][2]string{{"Kill it", "Kill them"}, {"?", "!"}} {
		if a, b := normal("violence", other[0]), normal("violence", other[1]); a == b {
			t.Errorf("%q are duplicates", other)
		}
	}
	if normal("violence", "Kill it") == normal("self-harm", "Kill it") {
		t.Error("the same words in two categories are duplicates")
	}
}

func TestBuckets(t *testing.T) {
	for _, tt := range []struct {
		n, most int64
		want    int
	}{{0, 10, 1}, {10, 10, 1}, {11, 10, 2}, {41, 10, 8}} {
		if got := Buckets(tt.n, tt.most); got != tt.want {
			t.Errorf("Buckets(%d, %d) = %d, want %d", tt.n, tt.most, got, tt.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"text":"a"}`), "jsonl")
	f.Add([]byte("text\na"), "csv")
	f.Add([]byte("PAR1"), "parquet")
	f.Add([]byte(`{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}]}`), "jsonl")
	f.Fuzz(func(t *testing.T, raw []byte, format string) {
		in := schemas.Import{Format: format, Category: "violence", Intent: "benign"}
		_, _ = Read("x", raw, in)
		for a, err := range ScanAnswered("x", bytes.NewReader(raw), int64(len(raw)), in) {
			if err == nil && (a.Target == "" || len(a.Messages) == 0) {
				t.Errorf("a conversation of nothing: %+v", a)
			}
		}
	})
}

// TestUnusableTexts: a row whose text can't be used is a row with a reason, and what is wrong
// names the column.
func TestUnusableTexts(t *testing.T) {
	in := schemas.Import{Category: "violence", Intent: schemas.IntentHarmful}
	mapped := in
	mapped.Columns = map[string]string{"text": "question"}
	for _, tt := range []struct {
		name, file, raw string
		in              schemas.Import
		reason          schemas.Reason
		wrong           string
	}{
		{"an empty cell", "x.csv", "text,source\n ,web\n", in, schemas.ReasonEmpty, `column "text" is empty`},
		{"an empty mapped cell", "x.csv", "question\n\"\"\n", mapped, schemas.ReasonEmpty, `column "question" is empty`},
		{"null", "x.jsonl", `{"text":null}`, in, schemas.ReasonEmpty, `column "text" is empty`},
		{"no text", "x.jsonl", `{"prompt":"a"}`, in, schemas.ReasonEmpty, `has no prompt; its text is looked for in column "text"`},
		{"no mapped column", "x.jsonl", `{"text":"a"}`, mapped, schemas.ReasonMalformed, `there is no column "question", which columns.text names`},
		{"a number", "x.jsonl", `{"text":3}`, in, schemas.ReasonMalformed, `column "text" is a number, not a text`},
		{"an object", "x.jsonl", `{"text":{"a":1}}`, in, schemas.ReasonMalformed, `column "text" is an object, not a text`},
		{"no UTF-8", "x.csv", "text\n\xff\n", in, schemas.ReasonMalformed, `column "text" is not UTF-8`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			for got, err := range Scan(tt.file, strings.NewReader(tt.raw), int64(len(tt.raw)), tt.in) {
				if n++; err != nil || got.Reason != tt.reason || !strings.HasPrefix(got.Wrong, tt.wrong) {
					t.Errorf("%q, %q, %v", got.Reason, got.Wrong, err)
				}
			}
			if n != 1 {
				t.Errorf("%d rows", n)
			}
		})
	}
}
