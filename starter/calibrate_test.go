package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"precept/internal/calibrate"
	"precept/schemas"
)

// labels is a file of answers that name the scores of the judges, such as "7 5".
const labels = `text,answer,cot,category,label_ann,label_bob
a?,9 9,c,violence,good,good
b?,8 9,c,violence,good,good
c?,7 3,c,self-harm,good,
d?,5 5,c,self-harm,kept,1
e?,8 8,c,violence,bad,bad
f?,2 2,c,violence,rejected,0
g?,1 1,c,violence,rejected,bad
h?,0 0,c,self-harm,bad,bad
i?,lost lost,c,self-harm,bad,bad
j?,4 4,c,self-harm,good,bad
k?,4 4,c,self-harm,,
`

// bySaid is a judge that gives the score that an answer names.
func bySaid(q asked) (string, int) {
	said := strings.Fields(q.block("answer"))
	if len(q.Messages) > 2 || said[0] == "lost" {
		return "Well.", 0
	}
	word := said[0]
	if q.Model == "judge-2" {
		word = said[1]
	}
	return opinion(int(word[0]-'0'), schemas.ActionComply, schemas.ActionComply, q.Model+" says "+word), 0
}

func TestCalibrate(t *testing.T) {
	s := simulate(t, bySaid)
	dir := files(t, map[string]string{"labels.csv": labels})
	page := filepath.Join(dir, "page.html")
	args := []string{"calibrate", filepath.Join(dir, "labels.csv"), "--judge", "judge", "--votes", "2", "--precision", "0.6"}
	code, out, stderr := s.run(t, append(args, "--html", page, "--against", "judge-2")...)
	want := `judge (test/judge@1) as filter over labels.csv, 2 votes
Simulated, not real models: judge, judge-2
11 answers: 4 good and 4 bad by their labels; left out: 1 whose votes could not be read, 1 without a label, 1 whose labels are evenly split

at threshold 0.70  good  bad
kept               3     1
rejected           1     3

accuracy           0.75 (0.41 to 0.93)
precision          0.75 (0.30 to 0.95)
recall             0.75 (0.30 to 0.95)
kappa              0.50 (-0.10 to 1.00)
calibration error  0.225

threshold  kept  precision            recall
0.90       1     1.00 (0.21 to 1.00)  0.25 (0.05 to 0.70)
0.80       3     0.67 (0.21 to 0.94)  0.50 (0.15 to 0.85)
0.70       4     0.75 (0.30 to 0.95)  0.75 (0.30 to 0.95)
0.50       5     0.80 (0.38 to 0.96)  1.00 (0.51 to 1.00)
0.20       6     0.67 (0.30 to 0.90)  1.00 (0.51 to 1.00)
0.10       7     0.57 (0.25 to 0.84)  1.00 (0.51 to 1.00)
0.00       8     0.50 (0.22 to 0.78)  1.00 (0.51 to 1.00)

score       answers  share of good ones (| is their score)  
0.0 to 0.1  1        |.............................         0.00 (0.00 to 0.79)
0.1 to 0.2  1        ...|..........................         0.00 (0.00 to 0.79)
0.2 to 0.3  1        ......|.......................         0.00 (0.00 to 0.79)
0.5 to 0.6  1        ###############|##############         1.00 (0.21 to 1.00)
0.7 to 0.8  1        #####################|########         1.00 (0.21 to 1.00)
0.8 to 0.9  2        ###############.........|.....         0.50 (0.09 to 0.91)
0.9 to 1.0  1        ###########################|##         1.00 (0.21 to 1.00)

No threshold is shown to reach a precision of 0.60: at 0.50 it is 0.80 (0.38 to 0.96) of 5 kept. About 31 more labelled answers would show it, if the precision stays what it is.

category   answers  accuracy             kappa
self-harm  3        0.67 (0.21 to 0.94)  0.40 (-0.56 to 1.00)
violence   5        0.80 (0.38 to 0.96)  0.62 (-0.06 to 1.00)
People: label_ann and label_bob agree on 0.89 (0.57 to 0.98) of 9, kappa 0.77 (0.34 to 1.00)

Judged otherwise than labelled, the furthest first:
  row 5, violence: score 0.80, label 0
    judge says 8
  row 4, self-harm: score 0.50, label 1
    judge says 5

Against judge-2 (test/judge-2@1): on 10 answers the two agree on 0.90 (0.60 to 0.98), kappa 0.78 (0.38 to 1.00); their scores are 0.05 apart on average; on 1 more one of them lost a vote
Kept by both 3, by judge alone 1, by judge-2 alone 0, by neither 6
Where they differ most:
  row 3, self-harm: score 0.70 and 0.30, label 1
    judge says 7
    judge-2 says 3
  row 2, violence: score 0.80 and 0.90, label 1
    judge says 8
    judge-2 says 9

Calls: 48 paid ($0.0053); 0 answered by what was recorded earlier, which costs nothing now
`
	if d := cmp.Diff(want, strings.TrimSuffix(out, "Plots: "+page+"\n")); code != exitOK || d != "" || stderr != "" {
		t.Errorf("exit code %d, %s (- want, + got)\n%s", code, stderr, d)
	}
	raw, err := os.ReadFile(page)
	if err != nil || strings.Count(string(raw), "<svg") != 2 || !strings.Contains(string(raw), "Simulated models took part") {
		t.Errorf("the page: %v\n%.300s", err, raw)
	}
	// Each vote is asked twice on the row that is lost, and once more on none.
	if d := cmp.Diff(map[string]int{"judge": 11*2 + 2, "judge-2": 11*2 + 2}, s.calls()); d != "" {
		t.Errorf("calls (- want, + got)\n%s", d)
	}

	// Again, from the journal alone.
	code, out, stderr = s.run(t, append(args, "--json")...)
	var r calibrate.Report
	if err := json.Unmarshal([]byte(out), &r); code != exitOK || err != nil {
		t.Fatalf("exit code %d, %v, %s", code, err, stderr)
	}
	if calls := s.calls(); len(calls) != 0 || r.Usage.Paid != 0 || r.Usage.Cached != 24 {
		t.Errorf("asked again: %v, %+v", calls, r.Usage)
	}
	if r.Result.N != 8 || r.Lost != 1 || r.Misjudged[0].Number != 5 || r.Misjudged[0].Prompt != "" || r.Result.Target.MoreLabels != 31 {
		t.Errorf("%+v", r)
	}
	// A list that is cut says so.
	_, out, _ = s.run(t, append(args, "-n", "1", "--against", "judge-2")...)
	for _, want := range []string{
		"the furthest first (1 of 2 shown; all with -n 2):\n  row 5, violence: score 0.80, label 0\n    judge says 8\n\n",
		"Where they differ most (1 of 2 shown; all with -n 2):\n  row 3,",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if _, out, _ = s.run(t, append(args, "--show-text")...); !strings.Contains(out, "    prompt: e?\n    answer: 8 8\n") {
		t.Errorf("the texts are asked for and not shown:\n%s", out)
	}
}

// A judge that is away gives no score.
func TestCalibrateWithoutAJudge(t *testing.T) {
	s := simulate(t, func(q asked) (string, int) {
		if q.block("answer") == "7 3" {
			return `{"error":{"message":"invalid key"}}`, http.StatusUnauthorized
		}
		return bySaid(q)
	})
	dir := files(t, map[string]string{"labels.csv": labels})
	code, out, stderr := s.run(t, "calibrate", filepath.Join(dir, "labels.csv"), "--judge", "judge")
	if code != exitBadInput || out != "" || !strings.Contains(stderr, "row 3: ") || !strings.Contains(stderr, "the same command goes on from them") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
}

func TestCalibrateRoles(t *testing.T) {
	s := simulate(t, bySaid)
	dir := files(t, map[string]string{
		"a.jsonl": `{"text":"a?","answer":"9 9","category":"violence","label":1,"intent":"harmful"}`,
		"b.jsonl": `{"messages":[{"role":"user","content":"a?"},{"role":"assistant","content":"<think>c</think>9 9"}],"category":"violence"}`,
		"d.jsonl": `{"text":"a?","answer":"lost lost","cot":"c","category":"violence"}`,
		"c.jsonl": `{"text":"a?","answer":"9 9","category":"gardening","label":1}`,
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{at("a.jsonl"), "--judge", "judge"}, exitBadInput, "row 1 has no chain of thought, which the filter judges"},
		{[]string{at("a.jsonl"), "--judge", "judge", "--role", "grade"}, exitOK, "1 vote\n"},
		{[]string{at("b.jsonl"), "--judge", "judge"}, exitBadInput, "no row has a label"},
		{[]string{at("b.jsonl"), "--judge", "judge", "--against", "judge-2"}, exitOK, "on 1 answers the two agree on 1.00"},
		{[]string{at("c.jsonl"), "--judge", "judge", "--role", "reward"}, exitBadInput, "row 1: look up category gardening"},
		{[]string{at("a.jsonl")}, exitBadInput, "no judge is named"},
		{[]string{at("a.jsonl"), "--judge", "nobody", "--role", "reward"}, exitBadInput, "the configuration has no such endpoint; it has [judge judge-2 teacher]"},
		{[]string{at("a.jsonl"), "--judge", "judge", "--role", "critic"}, exitBadInput, `there is no role "critic"`},
		{[]string{at("nowhere.csv"), "--judge", "judge"}, exitBadInput, "no such file"},
		{[]string{at("a.jsonl"), "--judge", "judge", "--precision", "1"}, exitBadInput, "--precision is 1"},
		{[]string{at("b.jsonl"), "--judge", "judge-2", "--against", "nobody"}, exitBadInput, "find endpoint nobody"},
		{[]string{at("a.jsonl"), "--judge", "judge-2", "--role", "reward", "--label", "label,labl"}, exitBadInput, `no row has a label in column "labl"`},
		{[]string{at("a.jsonl"), "--judge", "judge-2", "--role", "reward", "--html", at("nowhere/page.html")}, exitBadInput, "there is no folder"},
		{[]string{at("d.jsonl"), "--judge", "judge", "--against", "judge-2"}, exitOK, "on 1 one of them lost a vote: nothing can be compared\n"},
	} {
		s.calls()
		code, out, stderr := s.run(t, append([]string{"calibrate"}, tt.args...)...)
		if code != tt.code || !strings.Contains(out+stderr, tt.want) {
			t.Errorf("%v: exit code %d: %s%s", tt.args, code, out, stderr)
		}
		if n := s.calls(); code != exitOK && len(n) > 0 {
			t.Errorf("%v: asked before the error: %v", tt.args, n)
		}
	}
}

func TestFew(t *testing.T) {
	var cuts []calibrate.Cut
	for i := range 41 {
		cuts = append(cuts, calibrate.Cut{Threshold: float64(i)})
	}
	got := few(cuts)
	if len(got) != 20 || got[0].Threshold != 0 || got[19].Threshold != 40 {
		t.Errorf("%v", fmt.Sprint(got))
	}
}
