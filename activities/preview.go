package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"precept/internal/config"
	"precept/internal/shard"
	"precept/schemas"
)

// PreviewRequest asks what a run would find in the store, and what it would ask.
type PreviewRequest struct {
	Run  schemas.RunID
	Spec schemas.RunSpec // with its defaults
	Like schemas.RunID   // the run to compare with; empty for none
}

// StagePreview is what a stage would find and ask.
type StagePreview struct {
	Stage schemas.Stage `json:"stage"`
	Tasks int           `json:"tasks,omitempty"` // 0 where not even that can be told
	Found int           `json:"found"`           // tasks whose outputs are there
	// Changed lists the parts of the tasks' keys that differ from those of the run that it
	// is compared with.
	Changed []string `json:"changed,omitempty"`
	// Answered requests are answered from the journal; at least Least and at most Most are
	// sent.
	Answered int64 `json:"answered"`
	Least    int64 `json:"least"`
	Most     int64 `json:"most"`
	// Works says that a GPU works: a model is trained, or sampled from.
	Works bool `json:"works,omitempty"`
	// USD and Seconds are what the requests would take, by what they took in the other
	// run; nil where it doesn't tell.
	USD     *float64 `json:"usd,omitempty"`
	Seconds *float64 `json:"seconds,omitempty"`
	// Estimated says why the numbers are no more than likely.
	Estimated string `json:"estimated,omitempty"`
}

// Preview does what a run would do, as far as that takes no model: tasks read the store
// and the journal, and write into memory. Where answers are missing, what follows from
// them is estimated by the run that it is compared with.
func Preview(ctx context.Context, c config.Config, store shard.Store, journal *shard.Journal, req PreviewRequest) ([]StagePreview, error) {
	p, err := newPreview(ctx, c, store, journal, req)
	if err != nil {
		return nil, err
	}
	var stages []StagePreview
	for _, stage := range schemas.Stages {
		if stage == schemas.StageReport || !p.passes(stage) {
			continue
		}
		s, err := p.stage(ctx, stage)
		if err != nil {
			return nil, fmt.Errorf("stage %s: %w", stage, err)
		}
		if s.Estimated == "" {
			s.Estimated = p.stale
		}
		p.price(&s)
		stages = append(stages, s)
	}
	return stages, nil
}

// passes reports whether the run would pass a stage, as far as that is known.
func (p *preview) passes(stage schemas.Stage) bool {
	known := slices.ContainsFunc(p.sums, func(s schemas.StageSum) bool { return s.Stage == schemas.StagePrompts })
	return p.Spec.Passes(stage) && (stage.Trained() == "" || !known || schemas.HeldOut(p.sums) > 0)
}

func newPreview(ctx context.Context, c config.Config, store shard.Store, journal *shard.Journal, req PreviewRequest) (*preview, error) {
	a := New(c, shard.NewOverlay(store), journal, "preview")
	a.offline, a.bases = true, map[string]schemas.ModelRef{}
	p := &preview{Activities: a, PreviewRequest: req, scale: 1, like: map[schemas.Stage]*past{}}
	if err := p.readLike(ctx); err != nil {
		return nil, err
	}
	return p, p.readInputs(ctx)
}

// preview is a run that is only looked at.
type preview struct {
	*Activities
	PreviewRequest
	like   map[schemas.Stage]*past
	inputs schemas.InputsRef
	sums   []schemas.StageSum
	draws  []schemas.Draw

	scale  float64 // of what the tasks that were looked at stand for
	absent float64 // units that the next stage would have beside those looked at
	lost   bool    // what the stages from here on begin with isn't known
	stale  string  // why the inputs may be others by now

	sizes  *sizes // of what a stage asks; nil where nobody wants to know
	looked looked // at a stage's tasks
}

// past is a stage of the run that is compared with.
type past struct {
	manifest schemas.Manifest
	plan     *schemas.Plan
}

func (p *preview) readLike(ctx context.Context) error {
	if p.Like == "" {
		return nil
	}
	for _, stage := range schemas.Stages {
		var m schemas.Manifest
		err := shard.GetJSON(ctx, p.store, schemas.ManifestObject(p.Like, stage), &m)
		if schemas.KindOf(err) == schemas.NotFound {
			continue
		}
		if err != nil {
			return err
		}
		plan, err := p.loadPlan(ctx, m.Plan)
		if schemas.KindOf(err) == schemas.Conflict {
			continue // it is planned anew just now
		}
		if err != nil {
			return err
		}
		p.like[stage] = &past{m, plan}
		for _, t := range plan.Tasks {
			if t.Model != nil && t.Model.Base != "" && stage.Trained() == "" && t.Arm != schemas.ArmSFT && t.Arm != schemas.ArmRL && !(stage == schemas.StageRL && !plan.Spec.SFT.Skip) {
				p.bases[t.Model.Base] = *t.Model
			}
		}
	}
	return nil
}

// readInputs reads what the run would read. Where that can't be read from here, since paths
// are the worker's, the other run's inputs stand for it if the spec names the same ones.
func (p *preview) readInputs(ctx context.Context) (err error) {
	named := func(s schemas.RunSpec) schemas.Digest {
		return schemas.DigestOf([]any{s.Policy, s.Prompts.Imports, s.Prompts.Limit, s.Evaluate.Suites, s.Evaluate.Skip, s.From})
	}
	req := ImportRequest{Run: p.Run, Spec: p.Spec}
	if p.inputs, err = p.importAll(ctx, req); err != nil {
		unread := err
		for _, l := range p.like {
			if named(l.plan.Spec) == named(p.Spec) {
				p.inputs, err = p.putInputs(ctx, req, l.plan.Inputs)
				p.stale = fmt.Sprintf("policy and files are those that run %s read, since they can't be read here (%v)", p.Like, unread)
				break
			}
		}
	}
	if err != nil || p.Spec.From.Stage == "" {
		return err
	}
	adopted, err := p.adopt(ctx, AdoptRequest{Run: p.Run, Spec: p.Spec, Inputs: p.inputs})
	if schemas.KindOf(err) == schemas.NotFound {
		p.lost = true // a model whose weights are not known here
		return nil
	}
	p.sums = adopted.Sums
	return err
}

// How many tasks of a stage are looked at: all of a few, else some that stand for the
// others.
const (
	fewTasks  = 48
	someTasks = 16
)

func (p *preview) stage(ctx context.Context, stage schemas.Stage) (s StagePreview, err error) {
	s.Stage = stage
	if p.lost {
		p.guess(&s)
		return s, nil
	}
	if stage == schemas.StageSynthesize && p.Spec.Quota.Accepted > 0 {
		first, err := p.draw(ctx, DrawRequest{Run: p.Run, Spec: p.Spec, Sums: p.sums, First: true})
		if err != nil {
			return s, err
		}
		p.draws = first.Draws
	}
	ref, err := p.plan(ctx, PlanRequest{Run: p.Run, Stage: stage, Spec: p.Spec, Inputs: p.inputs, Sums: p.sums, Draws: p.draws})
	if stage.Queue() == schemas.QueueGPU && schemas.KindOf(err) == schemas.NotFound {
		p.lost = true // a model that is new here
		p.guess(&s)
		return s, nil
	}
	if err != nil {
		return s, err
	}
	plan, err := p.loadPlan(ctx, ref)
	if err != nil {
		return s, err
	}
	s.Tasks, s.Changed = len(plan.Tasks), p.changed(stage, plan)
	var todo []int
	for i := range plan.Tasks {
		_, ok, err := p.work(plan, i).found(ctx)
		if err != nil {
			return s, err
		}
		if !ok {
			todo = append(todo, i)
		}
	}
	s.Found = s.Tasks - len(todo)
	if p.scale > 1 || p.absent > 0 {
		s.Estimated = "it follows from answers that aren't there yet"
	}
	if len(todo) > 0 && stage.Queue() == schemas.QueueGPU {
		p.lost, s.Works = true, true
		return s, nil
	}
	if len(todo) > fewTasks {
		s.Estimated = fmt.Sprintf("by %d of its %d tasks that are not found", someTasks, len(todo))
		if ref, plan, err = p.some(ctx, stage, plan, todo); err != nil {
			return s, err
		}
		todo = todo[:0]
		for i := range plan.Tasks {
			todo = append(todo, i)
		}
	}
	missing, err := p.look(ctx, plan, todo, &s)
	if err != nil {
		return s, err
	}
	sum, err := p.close(ctx, ManifestRequest{Run: p.Run, Stage: stage, Plan: ref})
	if err != nil {
		return s, err
	}
	p.sums = append(p.sums, sum)
	p.follow(&s, missing)
	if p.Spec.Quota.Accepted > 0 && stage != schemas.StagePrompts {
		s.Estimated = "the quota's first round alone; it may take more"
	}
	return s, nil
}

// some keeps tasks of those to do, spread evenly, that stand for all of them.
func (p *preview) some(ctx context.Context, stage schemas.Stage, plan *schemas.Plan, todo []int) (ref schemas.PlanRef, few *schemas.Plan, err error) {
	few = new(schemas.Plan)
	*few = *plan
	few.Tasks = nil
	for i := range someTasks {
		few.Tasks = append(few.Tasks, plan.Tasks[todo[i*len(todo)/someTasks]])
	}
	p.scale *= float64(len(todo)) / someTasks
	ref = schemas.PlanRef{Object: schemas.PlanObject(p.Run, stage), Digest: schemas.DigestOf(few), Tasks: len(few.Tasks)}
	for _, t := range few.Tasks {
		ref.Planned += t.Planned
	}
	return ref, few, shard.PutJSON(ctx, p.store, ref.Object, few, shard.PutOptions{})
}

// work is a task that is only looked at: rows whose answers are missing stay out.
func (p *preview) work(plan *schemas.Plan, i int) *work {
	account := newAccount("preview")
	account.sizes = p.sizes
	return &work{
		Activities: p.Activities, plan: plan, spec: plan.Spec, stage: plan.Stage, Task: plan.Tasks[i],
		account: account, beat: &beat{}, mayMiss: math.MaxInt64,
	}
}

// doer is what does a stage's tasks, where that takes no GPU; else nil.
func doer(stage schemas.Stage) func(context.Context, *work) error {
	switch stage.Work() {
	case schemas.StageGenerate:
		return doGenerate
	case schemas.StageClassify:
		return doClassify
	case schemas.StagePrompts:
		return doPrompts
	case schemas.StageSynthesize:
		return doSynthesize
	case schemas.StageFilter:
		return doFilter
	case schemas.StageCurate:
		return doCurate
	case schemas.StageGrade:
		return doGrade
	}
	return nil
}

// looked is what was found of the rows of a stage's tasks.
type looked struct {
	done  int64 // rows that lack nothing
	fresh int64 // rows that lack all of their answers
	begun int64 // answers of rows that lack others
}

// look does the tasks todo, which are not found, and counts rows that are missing.
func (p *preview) look(ctx context.Context, plan *schemas.Plan, todo []int, s *StagePreview) (missing int64, err error) {
	for _, i := range todo {
		w := p.work(plan, i)
		if err := doer(plan.Stage)(ctx, w); err != nil {
			return 0, err
		}
		r, ok, err := w.found(ctx)
		if err != nil || !ok {
			return 0, errors.Join(err, schemas.Errorf("preview task", w.Title, schemas.Internal, "it left nothing"))
		}
		missing += r.Ledger.Missing()
		s.Answered += p.scaled(w.account.took().Cached)
		s.Least += p.scaled(max(r.Ledger.Missing(), w.unasked.least.Load()))
		s.Most += p.scaled(max(r.Ledger.Missing(), w.unasked.most.Load()))
		p.looked.done += r.Ledger.Planned - r.Ledger.Missing()
		p.looked.begun += w.unasked.begun.Load()
		p.looked.fresh += w.unasked.fresh.Load()
	}
	return missing, nil
}

func (p *preview) scaled(n int64) int64 { return int64(math.Round(float64(n) * p.scale)) }

// follow adds what rows of earlier stages that aren't there yet would ask, and hands on
// how many units are absent behind this stage.
func (p *preview) follow(s *StagePreview, missing int64) {
	calls, kept := p.rates(s.Stage)
	if n := int64(math.Round(p.absent * calls)); n > 0 {
		s.Least, s.Most = s.Least+n, s.Most+n
	}
	p.absent = (p.absent + float64(missing)*p.scale) * kept
}

// rates are how many requests a unit of a stage takes, and which share is kept, by the
// other run, or else by the spec.
func (p *preview) rates(stage schemas.Stage) (calls, kept float64) {
	kept = 1
	switch stage.Work() {
	case schemas.StageGenerate:
		calls = 1
	case schemas.StageClassify:
		calls = float64(p.Spec.Prompts.Classify.Votes)
	case schemas.StagePrompts:
		kept = float64(p.Spec.Synthesize.Samples) // a prompt makes as many units of the next stage
	case schemas.StageSynthesize:
		calls = 1
	case schemas.StageFilter:
		calls = float64(p.Spec.Filter.Votes)
	case schemas.StageGrade:
		calls = float64(p.Spec.Evaluate.Votes)
		if stage.Trained() != "" {
			calls *= 2 // it is shown the chain of thought, too
		}
	}
	l := p.like[stage]
	if l == nil || l.manifest.Ledger.Planned == 0 {
		return calls, kept
	}
	units := float64(l.manifest.Ledger.Planned)
	kept *= float64(l.manifest.Ledger.Kept) / units
	if n := l.requests(); n > 0 && calls > 0 {
		calls = float64(n) / units
	}
	return calls, kept
}

// requests is how many requests the stage took when it was passed in full.
func (l *past) requests() (n int64) {
	for _, s := range l.manifest.Spent {
		n = max(n, s.Usage.Paid+s.Usage.Cached)
	}
	return n
}

// guess is a stage of which nothing is known but what the other run took.
func (p *preview) guess(s *StagePreview) {
	s.Estimated = "by the run that it is compared with, since a model is trained first"
	s.Works = s.Stage.Queue() == schemas.QueueGPU
	s.Changed = []string{"inputs or models"}
	if l := p.like[s.Stage]; l != nil {
		s.Tasks = len(l.plan.Tasks)
		if !s.Works {
			s.Least, s.Most = l.requests(), l.requests()
		}
	} else {
		s.Estimated = "unknown: a model is trained first, and no run tells what it takes"
	}
}

// price says what a stage's requests, or its work, would take, by what the other run's
// took.
func (p *preview) price(s *StagePreview) {
	if s.Tasks == 0 {
		return
	}
	if s.Most == 0 && !s.Works {
		s.USD, s.Seconds = new(0.0), new(0.0)
		return
	}
	l := p.like[s.Stage]
	if l == nil {
		return
	}
	var usage schemas.Usage
	var took time.Duration
	for _, x := range l.manifest.Spent {
		if x.Usage.Paid > 0 || s.Works {
			usage.Add(x.Usage)
			took = max(took, x.Finished.Sub(x.Started))
		}
	}
	if s.Works {
		if took > 0 {
			s.USD, s.Seconds = new(usage.USD), new(took.Seconds())
		}
		return
	}
	if usage.Paid == 0 {
		return
	}
	share := float64(s.Most) / float64(usage.Paid)
	s.USD, s.Seconds = new(usage.USD*share), new(took.Seconds()*share)
}

// changed compares what the tasks' keys are made of with the other run's.
func (p *preview) changed(stage schemas.Stage, plan *schemas.Plan) []string {
	l := p.like[stage]
	if l == nil {
		return nil
	}
	before := map[string]json.RawMessage{}
	for _, t := range l.plan.Tasks {
		before[t.Title] = t.Lineage
	}
	counts := map[string]int{}
	for _, t := range plan.Tasks {
		old, ok := before[t.Title]
		if !ok {
			counts["new tasks"]++
			continue
		}
		for _, path := range differing(old, t.Lineage) {
			counts[path]++
		}
	}
	var out []string
	for _, path := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[path]; n < len(plan.Tasks) {
			path += fmt.Sprintf(" (%d of %d tasks)", n, len(plan.Tasks))
		}
		out = append(out, path)
	}
	return out
}

// differing lists the parts of two lineages that differ, the parameters one by one.
func differing(x, y json.RawMessage) (paths []string) {
	parts := func(raw json.RawMessage) map[string]json.RawMessage {
		var top, params map[string]json.RawMessage
		if json.Unmarshal(raw, &top) != nil {
			return nil // of no lineage
		}
		if json.Unmarshal(top["params"], &params) == nil {
			delete(top, "params")
			for k, v := range params {
				top["params."+k] = v
			}
		}
		return top
	}
	a, b := parts(x), parts(y)
	all := maps.Clone(a)
	maps.Copy(all, b)
	for path := range all {
		if string(a[path]) != string(b[path]) {
			paths = append(paths, path)
		}
	}
	return paths
}
