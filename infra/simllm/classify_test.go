package main

import (
	"bufio"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"precept/internal/policy"
	"precept/policies"
)

func TestClassifyExamples(t *testing.T) {
	p, err := policy.Load(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	subjects := readSubjects(p.Summaries().Text)
	for _, glob := range []string{"../../examples/prompts/*.jsonl", "../../examples/suites/*.jsonl"} {
		files, _ := filepath.Glob(glob)
		n, cat, intent := 0, 0, 0
		conf := map[string]map[string]int{}
		iconf := map[string]map[string]int{}
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(f)
			for lines.Scan() {
				var row struct{ Text, Category, Intent string }
				if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
					t.Fatal(err)
				}
				l := classified(subjects, []string{row.Text}, rand.New(rand.NewPCG(1, uint64(n))))
				n++
				if l.Category == row.Category {
					cat++
				}
				if l.Intent == row.Intent {
					intent++
				}
				if conf[row.Category] == nil {
					conf[row.Category] = map[string]int{}
				}
				conf[row.Category][l.Category]++
				if iconf[row.Intent] == nil {
					iconf[row.Intent] = map[string]int{}
				}
				iconf[row.Intent][l.Intent]++
			}
		}
		t.Logf("%s: %d, category %d, intent %d\n%v\n%v", glob, n, cat, intent, conf, iconf)
	}
}
