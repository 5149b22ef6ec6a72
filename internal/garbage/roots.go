package garbage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sourcegraph/conc/pool"

	"precept/internal/shard"
	"precept/schemas"
)

// roots is what is known to be needed. It only grows: it can be looked up again and
// again while others write.
type roots struct {
	store     shard.Store
	underway  func(context.Context) ([]Run, error) // nil: nobody knows
	cutoff    time.Time                            // what was written from here on is young
	forgotten map[string]schemas.RunID             // by the run's name in keys

	open      map[string]Run // by the run's name in keys
	importing []schemas.RunID

	mu   sync.Mutex
	read map[string]string // the ETags of roots, by how they are read and key
	refs map[string]string // the root that named it, by reference
}

const op = "collect garbage"

// atOnce is how many requests are under way at a time.
const atOnce = 16

// has tells whether something is referred to.
func (r *roots) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refs[name] != ""
}

// look finds roots, and reads those that are new or have changed.
func (r *roots) look(ctx context.Context) error {
	if err := r.lookForRuns(ctx); err != nil {
		return err
	}
	imported := map[string]time.Time{}
	readers := pool.New().WithContext(ctx).WithCancelOnError().WithFirstError().WithMaxGoroutines(atOnce)
	err := errors.Join(r.records(ctx, readers, imported), r.plans(ctx, readers))
	if err := errors.Join(err, readers.Wait()); err != nil {
		return err
	}
	r.importing = nil
	for name, run := range r.open {
		// Clocks of two servers differ a little.
		if at, ok := imported[name]; !ok || at.Add(time.Minute).Before(run.Started) {
			r.importing = append(r.importing, run.ID)
		}
	}
	slices.Sort(r.importing)
	if err := r.checkpoints(ctx); err != nil {
		return err
	}
	return r.jobs(ctx)
}

func (r *roots) lookForRuns(ctx context.Context) error {
	r.open = map[string]Run{}
	if r.underway == nil {
		return nil
	}
	runs, err := r.underway(ctx)
	if err != nil {
		return err
	}
	for _, run := range runs {
		if _, ok := r.forgotten[schemas.RunKey(run.ID)]; ok {
			return schemas.Errorf(op, "", schemas.Conflict, "run %s is under way, and can't be forgotten", run.ID).
				WithHint("End it first: temporal workflow terminate --workflow-id %s", schemas.ShellWord(string(run.ID)))
		}
		r.open[schemas.RunKey(run.ID)] = run
	}
	return nil
}

// records reads all runs' manifests, partial outputs and inputs, and tells when inputs were written.
func (r *roots) records(ctx context.Context, readers *pool.ContextPool, imported map[string]time.Time) error {
	for info, err := range r.store.List(ctx, "runs/") {
		if err != nil {
			return err
		}
		run, name, _ := strings.Cut(strings.TrimPrefix(info.Key, "runs/"), "/")
		if _, ok := r.forgotten[run]; ok {
			continue
		}
		switch {
		case name == "inputs.json":
			imported[run] = info.Modified
			readers.Go(func(ctx context.Context) error { return root(ctx, r, info, "", r.inputs) })
		case strings.HasPrefix(name, "partial/"):
			readers.Go(func(ctx context.Context) error { return root(ctx, r, info, "", r.partial) })
		case strings.HasPrefix(name, "manifest/"):
			readers.Go(func(ctx context.Context) error {
				return root(ctx, r, info, "", func(key string, m schemas.Manifest) error { return r.manifest(ctx, key, m) })
			})
		}
	}
	return nil
}

// plans reads the plans of runs under way, and young ones.
func (r *roots) plans(ctx context.Context, readers *pool.ContextPool) error {
	for info, err := range r.store.List(ctx, "plans/") {
		if err != nil {
			return err
		}
		p, ok := locate(info.Key)
		if !ok || r.forgotten[p.run] != "" {
			continue
		}
		if _, open := r.open[p.run]; !open && r.underway != nil && info.Modified.Before(r.cutoff) {
			continue
		}
		readers.Go(func(ctx context.Context) error { return root(ctx, r, info, "open", r.openPlan) })
	}
	return nil
}

// jobs reads the results of training jobs that are needed, and young ones: who finds a
// job takes its model to be there.
func (r *roots) jobs(ctx context.Context) error {
	readers := pool.New().WithContext(ctx).WithCancelOnError().WithFirstError().WithMaxGoroutines(atOnce)
	var listing error
	for info, err := range r.store.List(ctx, "jobs/") {
		if err != nil {
			listing = err
			break
		}
		if _, ok := locate(info.Key); !ok || !r.has(info.Key) && info.Modified.Before(r.cutoff) {
			continue
		}
		readers.Go(func(ctx context.Context) error { return root(ctx, r, info, "", r.job) })
	}
	return errors.Join(listing, readers.Wait())
}

// checkpoints reads which milestones the jobs under way have stored: what resumes from a
// checkpoint takes them to be there. A job that goes on meanwhile replaces its checkpoint by
// one that lists them too.
func (r *roots) checkpoints(ctx context.Context) error {
	for {
		replaced := false
		for info, err := range r.store.List(ctx, "checkpoints/") {
			if err != nil {
				return err
			}
			p, ok := locate(info.Key)
			if !ok || !r.has(p.name) || !strings.HasSuffix(info.Key, "/"+schemas.MilestonesFile) {
				continue
			}
			err = root(ctx, r, info, "", r.milestones)
			if schemas.KindOf(err) == schemas.NotFound {
				replaced = true
				continue
			}
			if err != nil {
				return err
			}
		}
		if !replaced {
			return nil
		}
	}
}

// root reads an object and follows it, unless it did before. The same object may be
// followed in several ways.
func root[T any](ctx context.Context, r *roots, info shard.Info, way string, follow func(key string, v T) error) error {
	r.mu.Lock()
	known := r.read[way+info.Key] == info.ETag
	r.mu.Unlock()
	if known {
		return nil
	}
	body, info, err := r.store.Get(ctx, info.Key)
	if err != nil {
		return schemas.E(op, info.Key, schemas.KindOf(err), err)
	}
	var v T
	dec := json.NewDecoder(bytes.NewReader(body))
	// A field that is not known may refer to something.
	dec.DisallowUnknownFields()
	err = dec.Decode(&v)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more after the JSON value")
		}
	}
	if err == nil {
		err = follow(info.Key, v)
	}
	if err != nil {
		return unreadable(info.Key, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read[way+info.Key] = info.ETag
	return nil
}

// unreadable says that nobody knows what a root refers to.
func unreadable(key string, err error) error {
	var known *schemas.Error
	if errors.As(err, &known) && known.Op == op {
		return err
	}
	e := schemas.Errorf(op, "", schemas.InvalidInput, "%s can't be read, so that nobody knows what it refers to: %w", key, err)
	hint := "Restore it, or use the starter of the version that wrote it"
	if p, ok := locate(key); ok && p.run != "" {
		if run, err := url.PathUnescape(p.run); err == nil {
			hint += ", or forget the run: starter gc --forget " + schemas.ShellWord(run)
		}
	}
	return e.WithHint("%s", hint)
}

// manifest follows what a stage came to, and the plan it was made by.
func (r *roots) manifest(ctx context.Context, key string, m schemas.Manifest) error {
	if schemas.ManifestObject(m.Run, m.Stage) != key {
		return errors.New("it is no manifest of this run and stage")
	}
	for _, refs := range m.Outputs {
		if err := r.shards(key, refs...); err != nil {
			return err
		}
	}
	if err := errors.Join(r.model(key, m.Model), r.milestones(key, m.Milestones)); err != nil {
		return err
	}
	if err := r.add(key, Plans, m.Plan.Object); err != nil {
		return err
	}
	// Another execution of the run may have replaced it: then what the manifest names
	// itself is all that is left of the first one.
	info, err := r.store.Head(ctx, m.Plan.Object)
	if schemas.KindOf(err) == schemas.NotFound {
		return unreadable(key, fmt.Errorf("there is no plan %s", m.Plan.Object))
	}
	if err != nil {
		return schemas.E(op, m.Plan.Object, schemas.KindOf(err), err)
	}
	return root(ctx, r, info, "closed", r.closedPlan)
}

// partial follows the record of an output that rows are missing from: a stage under way
// has it in no manifest yet.
func (r *roots) partial(key string, p schemas.Partial) error { return r.shards(key, p.Shard) }

// closedPlan follows what a plan's tasks read. What they wrote stands in the manifest.
func (r *roots) closedPlan(key string, p schemas.Plan) error {
	if schemas.PlanObject(p.Run, p.Stage) != key {
		return errors.New("it is no plan of this run and stage")
	}
	if err := r.inputs(key, p.Inputs); err != nil {
		return err
	}
	for _, t := range p.Tasks {
		if err := errors.Join(r.shards(key, t.Inputs...), r.model(key, t.Model)); err != nil {
			return err
		}
		for _, o := range t.Outputs {
			if o.Kind == schemas.OutputModel {
				if err := r.add(key, Jobs, schemas.JobObject(o.Key)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// openPlan follows what a plan's tasks read and write.
func (r *roots) openPlan(key string, p schemas.Plan) error {
	if err := errors.Join(r.closedPlan(key, p), r.add(key, Plans, key)); err != nil {
		return err
	}
	for _, t := range p.Tasks {
		for _, o := range t.Outputs {
			var err error
			switch o.Kind {
			case schemas.OutputModel: // its job is named already
				err = r.add(key, Checkpoints, "checkpoints/"+string(o.Key))
			case schemas.OutputGenerated, schemas.OutputLabels, schemas.OutputMatches, schemas.OutputChecks,
				schemas.OutputPrompts, schemas.OutputDev, schemas.OutputCompletions, schemas.OutputVerdicts, schemas.OutputExamples,
				schemas.OutputRLPrompts, schemas.OutputRollouts, schemas.OutputGrades:
				err = errors.Join(r.add(key, Shards, shard.Object(p.Stage, o.Key)), r.add(key, Batches, schemas.BatchesObject(o.Key)))
			default:
				err = fmt.Errorf("a task has an output of unknown kind %q", o.Kind)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *roots) inputs(key string, in schemas.Inputs) error {
	if err := r.add(key, Policies, schemas.PolicyPrefix(in.Policy)); err != nil {
		return err
	}
	for _, inputs := range [][]schemas.Input{in.Prompts, in.Suites, in.Dataset, in.Mix} {
		for _, in := range inputs {
			if err := r.add(key, Inputs, in.Object); err != nil {
				return err
			}
			if in.Shard != nil {
				if err := r.shards(key, *in.Shard); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *roots) job(key string, j schemas.JobResult) error {
	if schemas.JobObject(j.Key) != key {
		return errors.New("it is no result of this job")
	}
	return errors.Join(r.model(key, &j.Model), r.milestones(key, j.Milestones))
}

func (r *roots) milestones(key string, milestones []schemas.Milestone) error {
	for _, m := range milestones {
		if err := r.model(key, &m.Model); err != nil {
			return err
		}
	}
	return nil
}

func (r *roots) shards(key string, refs ...schemas.ShardRef) error {
	for _, ref := range refs {
		if err := r.add(key, Shards, ref.Object); err != nil {
			return err
		}
	}
	return nil
}

func (r *roots) model(key string, ref *schemas.ModelRef) error {
	if ref == nil {
		return nil
	}
	return r.add(key, Models, ref.Prefix)
}

// add notes that a root refers to something. What is not of the layout that this
// program knows is an error: it would look in the wrong place.
func (r *roots) add(root string, kind Kind, name string) error {
	example := name
	switch kind {
	case Models, Policies:
		example += "/file"
	case Checkpoints:
		example += "/00000000/file"
	}
	if p, ok := locate(example); !ok || p.kind != kind || p.name != name {
		return fmt.Errorf("it names %q among its %s", name, kind)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refs[name] == "" {
		r.refs[name] = root
	}
	return nil
}
