package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/shard"
	"precept/schemas"
)

func TestStart(t *testing.T) {
	f := &fakeServer{}
	code, out, stderr := transcript(t, f, nil, "start", "-")
	want := "Started run my-first-run.\nWatch it with: starter watch my-first-run\nIn the UI: http://ui.test/my-first-run\n"
	if code != exitOK || stderr != "" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
	if !f.closed {
		t.Error("the connection is left open")
	}

	f = &fakeServer{attached: true}
	_, out, _ = transcript(t, f, nil, "start", "-", "--run", "other", "--json")
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"run": "other", "attached": true, "ui": "http://ui.test/other"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestStartAndWatch(t *testing.T) {
	f := &fakeServer{attached: true, seen: []sight{{Progress: gated()}}}
	code, out, _ := transcript(t, f, nil, "start", "-", "--run", "first", "--watch", "--until-gate")
	if code != exitGate || !strings.Contains(out, "Run first runs already: attached") ||
		!strings.HasSuffix(out, "\"digest\":\"0123456789abcdef\"}\n") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestSlug(t *testing.T) {
	for name, want := range map[string]string{
		"Quick start": "quick-start", "  a/b_c!": "a-b-c", "Größe 2": "größe-2", "…": "",
	} {
		if got := slug(name); got != want {
			t.Errorf("slug(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestDecide(t *testing.T) {
	record := schemas.DecisionRecord{Number: 2, Verdict: "approve", Decision: schemas.Decision{
		Gate: schemas.GateDataset, By: "Ann", Opening: "dataset-1-0123456789ab", Digest: "0123456789abcdef", Note: "looks good",
	}}
	stale := record
	stale.Stale, stale.Decision.Note = true, "stale: the gate is closed"
	for _, test := range []struct {
		name   string
		server fakeServer
		code   int
		want   string
	}{
		{"recorded", fakeServer{answer: decided{Record: &record}}, exitOK,
			"Decision 2 recorded: approve at gate dataset (opening dataset-1-0123456789ab, data 0123456789ab) by Ann: looks good\n"},
		{"stale", fakeServer{answer: decided{Record: &stale}}, exitError,
			"starter: approve run first: recorded as stale, nothing changed: stale: the gate is closed. See what waits: starter progress first\n"},
		{"signal", fakeServer{answer: decided{Signalled: true, Why: "no poller"}}, exitOK,
			"No worker answered (no poller), so approve by Ann for gate dataset was left as a signal: the run takes it when a worker is back.\nSee what becomes of it: starter watch first\n"},
		{"refused", fakeServer{err: schemas.Errorf("approve run", "first", schemas.Conflict, "nothing waits")}, exitError,
			"starter: approve run first: nothing waits\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, out, stderr := transcript(t, &test.server, nil, "approve", "first", "dataset", "--by", "Ann", "--note", "looks good")
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if diff := cmp.Diff(test.want, out+stderr); diff != "" {
				t.Error(diff)
			}
			want := []schemas.Decision{{Gate: schemas.GateDataset, By: "Ann", Note: "looks good"}}
			if diff := cmp.Diff(want, test.server.decided); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEveryVerdict(t *testing.T) {
	for _, d := range decisions {
		f := &fakeServer{answer: decided{Record: &schemas.DecisionRecord{Verdict: d.verdict}}}
		code, _, stderr := transcript(t, f, nil, d.verdict, "first", "--by", "Ann")
		if code != exitOK || len(f.verdicts) != 1 || f.verdicts[0] != d.verdict {
			t.Errorf("%s: exit code %d, verdicts %v, %s", d.verdict, code, f.verdicts, stderr)
		}
	}
}

func TestRetry(t *testing.T) {
	record := schemas.DecisionRecord{Number: 3, Verdict: "retry", Decision: schemas.Decision{
		Gate: schemas.GateDataset, By: "Ann", Opening: "dataset-2-0123456789ab", Digest: "0123456789abcdef", Stage: schemas.StageFilter,
	}}
	for _, test := range []struct {
		name   string
		answer decided
		args   []string
		code   int
		want   string
	}{
		{"of a run that waits", decided{Record: &record}, []string{"--stage", "filter", "--reason", "timed out", "--by", "Ann"}, exitOK,
			"Decision 3 recorded: retry at gate dataset (opening dataset-2-0123456789ab, data 0123456789ab) by Ann\n"},
		{"of one that has ended", decided{Started: true}, []string{"--by", "Ann"}, exitOK,
			"Run first had ended: started again, to ask for rows that failed.\nWatch it with: starter watch first\n"},
		{"by nobody", decided{}, nil, exitBadInput, "starter: read command line: nobody is named as the one who decides. Add: --by \"YOUR NAME\"\n"},
		{"of what is final", decided{}, []string{"--reason", "below threshold", "--by", "Ann"}, exitBadInput,
			"starter: read command line: no row fails for the reason \"below threshold\". The reasons: [\"rate limited\" \"timed out\" \"endpoint unavailable\" \"bad request\" \"internal error\"]\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, out, stderr := transcript(t, &fakeServer{answer: test.answer}, nil, append([]string{"retry", "first"}, test.args...)...)
			if diff := cmp.Diff(test.want, out+stderr); diff != "" || code != test.code {
				t.Errorf("exit code %d\n%s", code, diff)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	code, out, _ := transcript(t, &fakeServer{seen: []sight{{Progress: gated()}}}, nil, "progress", "first")
	want := `first: waiting, stage synthesize
Simulated, not real models: sim-teacher, sim-judge
stage       tasks  kept  rejected  calls paid  cached  USD    time
prompts     3/3    182   4         0           0       $0.00  2.1s
synthesize  8/8    320   8         328         3       $0.00  1m12s
all                                328         3       $0.00  1m14s

The run waits for a person at its dataset gate (opening dataset-1-0123456789ab):
  Is the dataset good to train on? 184 examples (kept 184).
  digest        0123456789abcdef
  look at it    starter peek first curate --show-text   (may be harmful to read)
  approve       starter approve first dataset --opening dataset-1-0123456789ab --by "YOUR NAME"
  or            temporal workflow signal --workflow-id first --name approve --input '{"gate":"dataset","by":"YOUR NAME"}'

`
	if diff := cmp.Diff(want, out); code != exitOK || diff != "" {
		t.Errorf("exit code %d: %s", code, diff)
	}

	code, out, stderr := transcript(t, &fakeServer{seen: []sight{{Away: "worker", Why: "no poller"}}}, nil, "progress", "first", "--json")
	if code != exitError || out != "" || stderr != "starter: show progress of first: no worker answered: no poller. Wait for it with: starter watch first\n" {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}

	_, out, _ = transcript(t, &fakeServer{seen: []sight{{Ended: completed(schemas.StateRejected)}}}, nil, "progress", "first", "--json")
	var p schemas.Progress
	if err := json.Unmarshal([]byte(out), &p); err != nil || p.State != schemas.StateRejected || len(p.Stages) != 2 {
		t.Errorf("%v: %s", err, out)
	}
}

func put(t *testing.T, s shard.Store, key string, v any) {
	t.Helper()
	if err := shard.PutJSON(context.Background(), s, key, v, shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestReport(t *testing.T) {
	store := shard.NewMemory()
	r := *completed(schemas.StateCompleted).Report
	if _, err := store.Put(context.Background(), r.HTML, []byte("<html>"), shard.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "deep", "first.html")
	code, out, stderr := transcript(t, &fakeServer{seen: []sight{{Ended: &end{Report: &r}}}}, store, "report", "first", "--out", file)
	if code != exitOK || stderr != "" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	for _, part := range []string{"Run first (first): completed\n", "Simulated, not real models: sim-teacher", "No answer was graded.",
		"Report   " + file, "Objects  runs/first/report/report.html\n         runs/first/report/report.json"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in\n%s", part, out)
		}
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "<html>" {
		t.Errorf("%q, %v", raw, err)
	}

	// Temporal is away: the store is enough.
	away := &fakeServer{seen: []sight{{Away: "server", Why: "refused"}}}
	code, out, stderr = transcript(t, away, store, "report", "first", "--open-dir", t.TempDir())
	if code != exitError || out != "" || !strings.Contains(stderr, "the store has none yet, and the server is away: refused") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	put(t, store, r.JSON, r)
	dir := t.TempDir()
	code, out, stderr = transcript(t, away, store, "report", "first", "--open-dir", dir)
	if code != exitOK || !strings.Contains(out, filepath.Join(dir, "first.html")) ||
		stderr != "starter: the report is the store's: the server is away: refused\n" {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
}

func TestPeek(t *testing.T) {
	ctx, store := context.Background(), shard.NewMemory()
	const secret = "the prompt's words"
	rows := func(category schemas.Category, n int) (out []schemas.Prompt) {
		for i := range n {
			p := schemas.Prompt{
				Messages: []schemas.Message{{Role: "user", Content: secret}},
				Category: category, Intent: schemas.IntentBenign, Language: "en", Source: "test",
			}
			p.ID = strings.Repeat(string(rune('a'+i)), 24)
			if i == n-1 {
				p.Reason = schemas.ReasonDuplicate
			}
			out = append(out, p)
		}
		return out
	}
	plan := schemas.Plan{Run: "first", Stage: schemas.StagePrompts}
	for _, c := range []schemas.Category{"violence", "self-harm"} {
		ledger := schemas.Ledger{Kept: 3, Rejected: map[schemas.Reason]int64{schemas.ReasonDuplicate: 1}}
		key := schemas.DigestOf(c)
		if _, err := shard.Write(ctx, store, schemas.StagePrompts, key, rows(c, 4), ledger, nil); err != nil {
			t.Fatal(err)
		}
		plan.Tasks = append(plan.Tasks, schemas.Task{Title: string(c), Category: c,
			Outputs: []schemas.Output{{Kind: schemas.OutputPrompts, Key: key}}})
	}
	// A task that has not written its output yet.
	plan.Tasks = append(plan.Tasks, schemas.Task{Title: "late", Outputs: []schemas.Output{{Kind: schemas.OutputPrompts, Key: schemas.DigestOf("late")}}})
	put(t, store, schemas.PlanObject("first", schemas.StagePrompts), plan)

	code, out, stderr := transcript(t, nil, store, "peek", "first", "prompts", "-n", "2")
	want := `prompts of stage prompts
id            category   intent  language  source  reason
aaaaaaaaaaaa  violence   benign  en        test    
bbbbbbbbbbbb  violence   benign  en        test    
dddddddddddd  violence   benign  en        test    duplicate
dddddddddddd  self-harm  benign  en        test    duplicate
`
	if diff := cmp.Diff(want, out); code != exitOK || diff != "" {
		t.Errorf("exit code %d: %s%s", code, stderr, diff)
	}
	_, out, _ = transcript(t, nil, store, "peek", "first", "prompts", "--category", "self-harm")
	if strings.Contains(out, "violence") || strings.Count(out, "self-harm") != 4 {
		t.Errorf("not the category alone:\n%s", out)
	}
	_, out, _ = transcript(t, nil, store, "peek", "first", "prompts", "--json")
	if strings.Contains(out, secret) {
		t.Errorf("the prompt's text is shown without being asked for:\n%s", out)
	}
	for _, args := range [][]string{{}, {"--json"}} {
		_, out, _ = transcript(t, nil, store, append([]string{"peek", "first", "prompts", "--show-text"}, args...)...)
		if !strings.Contains(out, secret) {
			t.Errorf("the prompt's text is asked for but not shown:\n%s", out)
		}
	}
	code, _, stderr = transcript(t, nil, store, "peek", "first", "grade")
	if code != exitError || !strings.Contains(stderr, "stage grade has not been planned. See how far the run is: starter progress first") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// TestTables checks that every kind of rows has a table whose lines have as many
// cells as its head.
func TestTables(t *testing.T) {
	ctx, store := context.Background(), shard.NewMemory()
	check := func(kind string, write func(schemas.Key) (schemas.ShardRef, error)) {
		t.Helper()
		ref, err := write(schemas.DigestOf(kind))
		if err != nil {
			t.Fatal(err)
		}
		records, err := tables[kind].read(ctx, store, ref)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) != 1 || len(records[0].cells) != len(tables[kind].head) {
			t.Errorf("%s: %d rows, cells %v under %v", kind, len(records), records[0].cells, tables[kind].head)
		}
	}
	check(schemas.OutputPrompts, one(ctx, store, schemas.Prompt{}))
	check(schemas.OutputCompletions, one(ctx, store, schemas.Completion{}))
	check(schemas.OutputVerdicts, one(ctx, store, schemas.Verdict{}))
	check(schemas.OutputExamples, one(ctx, store, schemas.Example{}))
	check(schemas.OutputRLPrompts, one(ctx, store, schemas.RLPrompt{}))
	check(schemas.OutputRollouts, one(ctx, store, schemas.Rollout{}))
	check(schemas.OutputGrades, one(ctx, store, schemas.Grade{}))
	check(schemas.OutputGenerated, one(ctx, store, schemas.Generated{}))
	for _, kind := range []string{schemas.OutputLabels, schemas.OutputMatches, schemas.OutputChecks} {
		check(kind, one(ctx, store, schemas.Label{}))
	}
	if len(tables) != 11 {
		t.Errorf("%d tables, 11 are checked", len(tables))
	}
}

func one[T any](ctx context.Context, s shard.Store, row T) func(schemas.Key) (schemas.ShardRef, error) {
	return func(key schemas.Key) (schemas.ShardRef, error) {
		return shard.Write(ctx, s, schemas.StageCurate, key, []T{row}, schemas.Ledger{Kept: 1}, nil)
	}
}
