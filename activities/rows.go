package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"precept/internal/shard"
	"precept/schemas"
)

// A row that failed is never final: it stays out of the shard whose key is planned.
// Where a run goes on without it all the same, the others are written under a key that
// names the missing rows, and a record of the run says so.

// rowsOf says what a stage's rows are.
type rowsOf[T any] struct {
	kind   string
	n      int
	reason func(T) schemas.Reason        // why it was rejected
	unit   func(i int) schemas.FailedRow // what would be missing: its IDs
}

// leftOut is a row that is missing and stays so: only others are asked again.
type leftOut struct{ schemas.FailedRow }

func (e *leftOut) Error() string { return e.FailedRow.Error }

// do has every row done, and writes the task's shard: of all rows, or of those that
// didn't fail.
func (k rowsOf[T]) do(ctx context.Context, w *work, inFlight int, row func(ctx context.Context, i int) (T, error)) error {
	key, err := w.Output(k.kind)
	if err != nil {
		return err
	}
	left, err := w.leftOut(ctx, key)
	if err != nil {
		return err
	}
	rows := make([]T, k.n)
	failures, err := each(ctx, w, k.n, inFlight, func(ctx context.Context, i int) (err error) {
		if m, ok := left[k.unit(i)]; ok {
			return &leftOut{m}
		}
		rows[i], err = row(ctx, i)
		return err
	})
	if failed := (*rowsError)(nil); errors.As(err, &failed) {
		return k.showFailed(ctx, w, key, failed)
	}
	if err != nil {
		return err
	}
	return k.write(ctx, w, key, rows, failures)
}

// showFailed writes which rows failed to where the error says: people decide about them.
func (k rowsOf[T]) showFailed(ctx context.Context, w *work, key schemas.Key, e *rowsError) error {
	object := schemas.RunObject(w.plan.Run, fmt.Sprintf("failed/%s/%s.json", w.stage, key))
	if err := shard.PutJSON(ctx, w.store, object, k.missing(e.failures), shard.PutOptions{}); err != nil {
		return err
	}
	e.object = object
	return e
}

// missing names the rows that failed, and why.
func (k rowsOf[T]) missing(failures []rowFailure) (missing []schemas.FailedRow) {
	for _, f := range failures {
		m := k.unit(f.index)
		m.Reason, m.Error = failureReason(f.err), f.err.Error()
		if out := (*leftOut)(nil); errors.As(f.err, &out) {
			m = out.FailedRow
		}
		missing = append(missing, m)
	}
	return missing
}

func (k rowsOf[T]) write(ctx context.Context, w *work, key schemas.Key, rows []T, failures []rowFailure) error {
	if err := w.keep(ctx); err != nil {
		return err
	}
	ledger := schemas.Ledger{Planned: w.Planned}
	failed := map[int]bool{}
	missing := k.missing(failures)
	for i, f := range failures {
		ledger.Fail(missing[i].Reason)
		failed[f.index] = true
	}
	there := make([]T, 0, len(rows)-len(failures))
	for i, r := range rows {
		if !failed[i] {
			ledger.Count(k.reason(r))
			there = append(there, r)
		}
	}
	if len(missing) > 0 {
		return w.writePartial(ctx, key, missing, func(without schemas.Key, lineage any) (schemas.ShardRef, error) {
			return shard.Write(ctx, w.store, w.stage, without, there, ledger, lineage)
		})
	}
	_, err := shard.Write(ctx, w.store, w.stage, key, there, ledger, w.Lineage)
	return err
}

// leftOut is the rows that are missing from an output and not asked again, since they
// failed for another reason than the retry's.
func (w *work) leftOut(ctx context.Context, key schemas.Key) (map[schemas.FailedRow]schemas.FailedRow, error) {
	if w.retry == nil || *w.retry == "" {
		return nil, nil
	}
	p, _, err := shard.FindPartial(ctx, w.store, w.plan.Run, w.stage, key)
	left := map[schemas.FailedRow]schemas.FailedRow{}
	for _, m := range p.Missing {
		if m.Reason != *w.retry {
			left[schemas.FailedRow{PromptID: m.PromptID, CompletionID: m.CompletionID, Sample: m.Sample}] = m
		}
	}
	return left, err
}

// writePartial writes a shard that rows are missing from, and then its record.
func (w *work) writePartial(ctx context.Context, key schemas.Key, missing []schemas.FailedRow, write func(schemas.Key, any) (schemas.ShardRef, error)) error {
	named := slices.Clone(missing)
	for i := range named {
		named[i].Error = "" // the bytes don't follow from it
	}
	lineage := struct {
		Of      any                 `json:"of"`
		Missing []schemas.FailedRow `json:"missing"`
	}{w.Lineage, named}
	ref, err := write(schemas.DigestOf([]any{key, lineage}), lineage)
	if err != nil {
		return err
	}
	object := schemas.PartialObject(w.plan.Run, w.stage, key)
	return shard.PutJSON(ctx, w.store, object, schemas.Partial{Task: w.Title, Key: key, Shard: ref, Missing: missing}, shard.PutOptions{})
}

// asksAgain reports whether a retry of rows that failed for a reason concerns p. An
// empty reason stands for all.
func asksAgain(p schemas.Partial, reason schemas.Reason) bool {
	return slices.ContainsFunc(p.Missing, func(m schemas.FailedRow) bool { return reason == "" || m.Reason == reason })
}
