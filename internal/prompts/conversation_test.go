package prompts

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"
	"pgregory.net/rapid"

	"precept/schemas"
)

// says writes a conversation in short: "u: Hi | a: Hello".
func says(messages []schemas.Message) string {
	var out []string
	for _, m := range messages {
		out = append(out, m.Role[:1]+": "+m.Content)
	}
	return strings.Join(out, " | ")
}

func TestConversations(t *testing.T) {
	const three = `[{"role":"user","content":"One"},{"role":"assistant","content":"Two"},{"role":"user","content":"Three"},{"role":"assistant","content":"Four"}]`
	for _, tt := range []struct {
		name, raw string
		in        schemas.Import
		want      string
		reason    schemas.Reason
	}{
		{name: "up to the user's last turn", raw: `{"conversation":` + three + `}`, want: "u: One | a: Two | u: Three"},
		{name: "as ShareGPT has them", raw: `{"conversations":[{"from":"system","value":"S"},{"from":"human","value":"One"},{"from":"gpt","value":"Two"}]}`, want: "s: S | u: One"},
		{name: "in a mapped column", raw: `{"conversation":[],"chat":` + three + `}`, in: schemas.Import{Columns: map[string]string{"messages": "chat"}}, want: "u: One | a: Two | u: Three"},
		{name: "the last turns alone", raw: `{"messages":` + three + `}`, in: schemas.Import{MaxTurns: 2}, want: "u: Three"},
		{name: "turns enough", raw: `{"messages":` + three + `}`, in: schemas.Import{MaxTurns: 3}, want: "u: One | a: Two | u: Three"},
		{name: "as many characters as fit", raw: `{"messages":` + three + `}`, in: schemas.Import{MaxChars: 10}, want: "u: Three"},
		{name: "a system turn stays", raw: `{"system":"Be kind","messages":` + three + `}`, in: schemas.Import{MaxTurns: 1}, want: "s: Be kind | u: Three"},
		{name: "the last turn is too long", raw: `{"messages":` + three + `}`, in: schemas.Import{MaxChars: 4}, want: "u: One | a: Two | u: Three", reason: schemas.ReasonTooLong},
		{name: "a text is too long", raw: `{"text":"Three"}`, in: schemas.Import{MaxChars: 4}, want: "u: Three", reason: schemas.ReasonTooLong},
		{name: "no turn", raw: `{"conversation":[]}`, reason: schemas.ReasonEmpty},
		{name: "no turn of the user's", raw: `{"messages":[{"role":"assistant","content":"b"}]}`, want: "a: b", reason: schemas.ReasonEmpty},
		{name: "an empty turn", raw: `{"messages":[{"role":"user","content":" \n"}]}`, want: "u: ", reason: schemas.ReasonEmpty},
		{name: "no text in a turn", raw: `{"messages":[{"role":"user","content":null}]}`, want: "u: ", reason: schemas.ReasonEmpty},
		{name: "a tool's turn", raw: `{"messages":[{"role":"user","content":"a"},{"role":"tool","content":"b"},{"role":"user","content":"c"}]}`, want: "u: a", reason: schemas.ReasonMalformed},
		{name: "a system turn within", raw: `{"messages":[{"role":"user","content":"a"},{"role":"system","content":"b"}]}`, want: "u: a", reason: schemas.ReasonMalformed},
		{name: "no list", raw: `{"messages":"Hi"}`, reason: schemas.ReasonMalformed},
		{name: "parts in place of text", raw: `{"messages":[{"role":"user","content":[{"type":"image"}]}]}`, reason: schemas.ReasonMalformed},
		{name: "a text beside an empty list", raw: `{"messages":[],"text":"Hi"}`, want: "u: Hi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Category, tt.in.Intent = "violence", schemas.IntentBenign
			rows, err := Read("x.jsonl", []byte(tt.raw), tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := says(rows[0].Messages); got != tt.want || rows[0].Reason != tt.reason {
				t.Errorf("got %q, %q; want %q, %q", got, rows[0].Reason, tt.want, tt.reason)
			}
		})
	}
}

// TestWildChat reads a conversation as Parquet nests it, with what else stands in turns.
func TestWildChat(t *testing.T) {
	type turn struct {
		Content   string    `parquet:"content"`
		Country   *string   `parquet:"country,optional"`
		Role      string    `parquet:"role"`
		Timestamp time.Time `parquet:"timestamp"`
		Toxic     bool      `parquet:"toxic"`
	}
	type row struct {
		Hash         string `parquet:"conversation_hash"`
		Conversation []turn `parquet:"conversation,list"`
		Language     string `parquet:"language"`
		Toxic        bool   `parquet:"toxic"`
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b)
	if _, err := w.Write([]row{
		{"a", []turn{{Role: "user", Content: "Hi"}, {Role: "assistant", Content: "Yes?", Timestamp: time.Unix(1, 0)}}, "English", false},
		{"b", nil, "German", true},
	}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rows, err := Read("x.parquet", b.Bytes(), schemas.Import{Classify: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range rows {
		got = append(got, strings.Join([]string{says(p.Messages), p.Language, string(p.Category), string(p.Reason)}, "; "))
	}
	if d := cmp.Diff([]string{"u: Hi; English; ; ", "; German; ; empty"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestCut: what stays ends with the user's last turn, is a part of the conversation's end
// behind its system turn, begins with a turn of the user's where something went, and keeps
// to the limits; nothing that fits is left out.
func TestCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []schemas.Message
		if rapid.Bool().Draw(t, "system") {
			all = append(all, schemas.Message{Role: "system", Content: "s"})
		}
		for range rapid.IntRange(0, 7).Draw(t, "turns") {
			all = append(all, schemas.Message{Role: rapid.SampledFrom([]string{"user", "assistant"}).Draw(t, "role"), Content: rapid.StringMatching("[a-zé]{1,5}").Draw(t, "text")})
		}
		in := schemas.Import{MaxTurns: rapid.IntRange(0, 4).Draw(t, "max turns"), MaxChars: rapid.IntRange(0, 12).Draw(t, "max chars")}
		got, err := cut(all, in)
		if err != nil {
			return
		}
		if got[len(got)-1].Role != "user" || in.MaxChars > 0 && chars(got) > in.MaxChars {
			t.Fatalf("%s of %s", says(got), says(all))
		}
		turns, whole := got, all
		if all[0].Role == "system" {
			turns, whole = got[1:], all[1:]
		}
		for whole[len(whole)-1].Role != "user" {
			whole = whole[:len(whole)-1]
		}
		if len(turns) == len(whole) {
			return
		}
		if turns[0].Role != "user" || in.MaxTurns > 0 && len(turns) > in.MaxTurns || !cmp.Equal(turns, whole[len(whole)-len(turns):]) {
			t.Fatalf("%s of %s", says(got), says(all))
		}
	})
}

func TestUnlabelledRows(t *testing.T) {
	in := schemas.Import{Classify: true, Columns: map[string]string{"category": ""}}
	rows, err := Read("x.jsonl", []byte(`{"text":"a","category":"weather"}`+"\n"+`{"text":"b","intent":"benign"}`), in)
	if err != nil {
		t.Fatal(err)
	}
	if rows[0].Category != "" || rows[0].Intent != "" || rows[1].Intent != schemas.IntentBenign {
		t.Errorf("got %+v", rows)
	}
	if _, err := Read("x.jsonl", []byte(`{"text":"a","intent":"vile"}`), in); err == nil || !strings.Contains(err.Error(), `intent "vile"`) {
		t.Errorf("an unknown intent: %v", err)
	}
	if _, err := Read("x.jsonl", []byte(`{"text":"a"}`), schemas.Import{}); err == nil || !strings.Contains(err.Error(), `"classify": true`) {
		t.Errorf("no label: %v", err)
	}
}

// TestAnsweredStaysStrict: of one's own data set nothing is dropped in silence.
func TestAnsweredStaysStrict(t *testing.T) {
	for _, messages := range [][]schemas.Message{
		{{Role: "user", Content: "a"}, {Role: "assistant", Content: "b"}, {Role: "assistant", Content: "c"}},
		{{Role: "user", Content: " "}, {Role: "assistant", Content: "b"}},
		{{Role: "tool", Content: "a"}, {Role: "assistant", Content: "b"}},
	} {
		raw, err := json.Marshal(map[string]any{"messages": messages})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range ScanAnswered("x.jsonl", bytes.NewReader(raw), int64(len(raw)), schemas.Import{Category: "violence", Intent: "benign"}) {
			if schemas.KindOf(err) != schemas.InvalidInput {
				t.Errorf("%s: got %v", raw, err)
			}
		}
	}
}
