package activities

import (
	"cmp"
	"container/heap"
	"context"
	"os"
	"path"
	"path/filepath"
	"slices"

	"precept/internal/prompts"
	"precept/internal/shard"
	"precept/schemas"
)

// mixVersion changes when the same files give other mixed rows.
const mixVersion = 1

// importMix copies the files of conversations that are trained on beside the examples, and
// counts those that may be: no suite holds them, and none before says the same.
func (a *Activities) importMix(ctx context.Context, imports []schemas.Import, suites []schemas.Input) ([]schemas.Input, error) {
	if len(imports) == 0 {
		return nil, nil
	}
	known, err := a.suites(ctx, suites)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	return a.eachFile(ctx, imports, nil, func(f file, input *schemas.Input) error {
		err := scanAnswered(f.path, f.name, f.in, func(r prompts.Answered) error {
			if id := exampleOf(r).ID; !seen[id] && !known.Contaminate(r.Prompt) {
				seen[id] = true
				input.Rows++
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
		return a.keepFile(ctx, input, f)
	})
}

// mix writes the conversations that SFT trains on beside so many examples. Which ones
// they are follows from what they say alone.
func (p *planner) mix(ctx context.Context, examples int64) (refs []schemas.ShardRef, planned int64, err error) {
	n := p.Spec.SFT.Mix.Rows(examples, schemas.Rows(p.inputs.Mix))
	if n == 0 {
		return nil, 0, nil
	}
	suites, err := p.suites(ctx, p.inputs.Suites)
	if err != nil {
		return nil, 0, err
	}
	dir, err := os.MkdirTemp(p.work(), "mix-*")
	if err != nil {
		return nil, 0, schemas.E("mix data", "", schemas.Unavailable, err)
	}
	defer os.RemoveAll(dir)
	var dev []schemas.Prompt
	var digest schemas.Digest
	if schemas.HeldOut(p.Sums) > 0 {
		ref, err := p.devSplit(ctx)
		if err != nil {
			return nil, 0, err
		}
		if dev, err = keptPrompts(ctx, p.store, ref); err != nil {
			return nil, 0, err
		}
		digest = ref.Digest
	}
	held := prompts.NewSuites(dev)
	chosen := lowest{has: map[string]bool{}}
	meanings := make([]schemas.Import, len(p.inputs.Mix))
	for i, in := range p.inputs.Mix {
		file := filepath.Join(dir, "input")
		if _, err := p.store.GetFile(ctx, in.Object, file); err != nil {
			return nil, 0, err
		}
		meanings[i] = prompts.Meaning(in.Name, in.Import)
		err := scanAnswered(file, in.Name, in.Import, func(r prompts.Answered) error {
			if !suites.Contaminate(r.Prompt) && !held.Contaminate(r.Prompt) {
				chosen.add(exampleOf(r), int(n))
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, 0, err
		}
	}
	rows := slices.SortedFunc(slices.Values(chosen.rows), byID)
	l := lineage{
		Stage: schemas.StageSFT, Kind: "mix", Version: mixVersion, Inputs: inputDigests(p.inputs.Mix),
		Params: map[string]any{"imports": meanings, "rows": n, "suites": suiteDigests(p.inputs.Suites)},
	}
	if digest != "" {
		l.Params["dev"] = digest
	}
	// Where so many are wanted that none stands in for those that share words with the dev
	// split, they are missing.
	ledger := schemas.Ledger{Planned: n, Kept: int64(len(rows))}
	if lacks := n - ledger.Kept; lacks > 0 {
		ledger.Rejected = map[schemas.Reason]int64{schemas.ReasonDev: lacks}
	}
	ref, err := shard.Write(ctx, p.store, schemas.StageSFT, l.key(), rows, ledger, l)
	return []schemas.ShardRef{ref}, n, err
}

// exampleOf makes an SFT row of a conversation.
func exampleOf(r prompts.Answered) schemas.Example {
	e := schemas.Example{
		Prompt: r.Messages, Completion: []schemas.Message{{Role: "assistant", Content: r.Target}}, PromptID: r.ID,
		Category: r.Category, Intent: r.Intent, Language: r.Language, Source: r.Source,
	}
	e.ID = exampleID(e)
	return e
}

func byID(x, y schemas.Example) int { return cmp.Compare(x.ID, y.ID) }

// lowest is a heap of the rows with the lowest IDs, the highest of them on top. It holds no
// row twice.
type lowest struct {
	rows []schemas.Example
	has  map[string]bool
}

func (l *lowest) Len() int           { return len(l.rows) }
func (l *lowest) Less(i, j int) bool { return byID(l.rows[i], l.rows[j]) > 0 }
func (l *lowest) Swap(i, j int)      { l.rows[i], l.rows[j] = l.rows[j], l.rows[i] }
func (l *lowest) Push(x any)         { l.rows = append(l.rows, x.(schemas.Example)) }
func (l *lowest) Pop() any {
	last := l.rows[len(l.rows)-1]
	l.rows = l.rows[:len(l.rows)-1]
	return last
}

// add keeps e where it is among the n lowest.
func (l *lowest) add(e schemas.Example, n int) {
	switch {
	case l.has[e.ID] || len(l.rows) == n && byID(e, l.rows[0]) > 0:
		return
	case len(l.rows) == n:
		delete(l.has, l.rows[0].ID)
		l.rows[0] = e
		heap.Fix(l, 0)
	default:
		heap.Push(l, e)
	}
	l.has[e.ID] = true
}

// isMix reports whether a shard holds such rows: no other input of SFT is of its own stage.
func isMix(ref schemas.ShardRef) bool { return stageOf(ref) == schemas.StageSFT }

// stageOf is the stage that a shard is of.
func stageOf(ref schemas.ShardRef) schemas.Stage {
	return schemas.Stage(path.Base(path.Dir(ref.Object)))
}

func inputDigests(inputs []schemas.Input) (out []schemas.Digest) {
	for _, in := range inputs {
		out = append(out, in.Digest)
	}
	return out
}
