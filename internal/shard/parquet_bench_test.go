//go:build bench

package shard_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"precept/internal/shard"
	"precept/policies"
	"precept/schemas"
)

// completions makes rows as a teacher writes them: two to three KB of thoughts and one of
// answer, out of the words of the policies.
func completions(t *testing.T, n int) []schemas.Completion {
	t.Helper()
	var words []string
	err := fs.WalkDir(policies.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(policies.FS, path)
		words = append(words, strings.Fields(string(raw))...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	text := func(size int) string {
		var b strings.Builder
		for b.Len() < size {
			// Runs of a few words stand as they do in the policies.
			at, length := random.IntN(len(words)-8), 1+random.IntN(8)
			b.WriteString(strings.Join(words[at:at+length], " "))
			b.WriteByte(' ')
		}
		return b.String()
	}
	rows := make([]schemas.Completion, n)
	for i := range rows {
		key := schemas.DigestOf(i)
		rows[i] = schemas.Completion{
			ID: string(key[:24]), Model: "openai/teacher@2026-11", FinishReason: "stop", Request: key,
			CoT: text(2_000 + random.IntN(1_000)), Answer: text(1_000),
			Prompt: schemas.Prompt{
				ID: string(key[24:48]), Category: "violence", Intent: schemas.IntentBenign, Language: "en", Source: "prompts.jsonl",
				Messages: []schemas.Message{{Role: "user", Content: text(200)}},
			},
		}
	}
	return rows
}

// clocked runs do a few times and says what the fastest one took: wall and CPU time.
func clocked(t *testing.T, do func() error) string {
	t.Helper()
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var wall, used time.Duration
	for range 10 {
		begun, before := time.Now(), cpu()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); wall == 0 || took < wall {
			wall = took
		}
		if took := cpu() - before; used == 0 || took < used {
			used = took
		}
	}
	return fmt.Sprintf("%.1f ms, %.1f ms CPU", wall.Seconds()*1e3, used.Seconds()*1e3)
}

// TestParquetAgainstArrow writes and reads a shard, and has pyarrow do the same with the
// same rows.
func TestParquetAgainstArrow(t *testing.T) {
	rows := completions(t, 4_000)
	var body []byte
	write := clocked(t, func() (err error) { body, err = shard.Encode(rows, nil); return err })
	read := clocked(t, func() error {
		got, err := shard.Decode[schemas.Completion](body)
		if err == nil && len(got) != len(rows) {
			err = fmt.Errorf("%d rows", len(got))
		}
		return err
	})
	t.Logf("%d rows, %d bytes: write %s; read %s", len(rows), len(body), write, read)
	path := filepath.Join(t.TempDir(), "shard.parquet")
	if err := os.WriteFile(path, body, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("../../.precept/venv/bin/python", "testdata/arrow.py", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("pyarrow:\n%s", out)
}
