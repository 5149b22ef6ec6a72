package activities

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing/fstest"

	"precept/examples"
	"precept/internal/config"
	"precept/internal/hub"
	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/internal/prompts"
	"precept/internal/shard"
	"precept/policies"
	"precept/schemas"
)

// ImportRequest asks for a run's inputs.
type ImportRequest struct {
	Run  schemas.RunID   `json:"run"`
	Spec schemas.RunSpec `json:"spec"`
}

// Import copies policy, prompts and suites into the store by digest; nothing
// reads the originals after it. Whatever is wrong with them, or with the spec's
// endpoints, ends the run here, before any model is called.
func (a *Activities) Import(ctx context.Context, req ImportRequest) (schemas.InputsRef, error) {
	beat := startBeat(ctx)
	defer beat.stop()
	ref, err := a.importAll(ctx, req)
	return ref, fail(err)
}

func (a *Activities) importAll(ctx context.Context, req ImportRequest) (ref schemas.InputsRef, err error) {
	spec := req.Spec
	var inputs schemas.Inputs
	used := a.usedEndpoints(spec)
	if inputs.Simulated, err = a.checkEndpoints(used); err != nil {
		return ref, err
	}
	p, err := a.readPolicy(ctx, spec.Policy.Source)
	if err != nil {
		return ref, err
	}
	if err := spec.CheckCategories(p.Categories()); err != nil {
		return ref, err
	}
	inputs.Policy, inputs.Categories = p.Digest(), p.Categories()
	if err := checkPromptSpec(spec.Prompts, p); err != nil {
		return ref, err
	}
	if spec.Passes(schemas.StagePrompts) {
		if inputs.Prompts, err = a.importFiles(ctx, spec.Prompts.Imports, examples.Prompts, p, spec.Prompts.Limit, asPrompts); err != nil {
			return ref, err
		}
	}
	if !spec.Evaluate.Skip && (spec.Passes(schemas.StagePrompts) || spec.Passes(schemas.StageSample) || len(spec.From.Dataset) > 0) {
		if inputs.Suites, err = a.importFiles(ctx, spec.Evaluate.Suites, examples.Suites, p, 0, asSuite); err != nil {
			return ref, err
		}
	}
	if inputs.Dataset, err = a.importFiles(ctx, spec.From.Dataset, nil, p, 0, asDataset); err != nil {
		return ref, err
	}
	if spec.Passes(schemas.StageSFT) {
		if inputs.Mix, err = a.importMix(ctx, spec.SFT.Mix.Files, inputs.Suites); err != nil {
			return ref, err
		}
	}
	for name, body := range p.Files() {
		object := schemas.PolicyPrefix(p.Digest()) + "/" + name
		if err := a.putOnce(ctx, object, []byte(body)); err != nil {
			return ref, err
		}
	}
	return a.putInputs(ctx, req, inputs)
}

// putInputs writes what a run reads, and says what the workflow needs to know of it.
func (a *Activities) putInputs(ctx context.Context, req ImportRequest, inputs schemas.Inputs) (ref schemas.InputsRef, err error) {
	object := schemas.RunObject(req.Run, "inputs.json")
	if err := shard.PutJSON(ctx, a.store, object, inputs, shard.PutOptions{}); err != nil {
		return ref, err
	}
	ref = schemas.InputsRef{
		Object: object, Digest: schemas.DigestOf(inputs), Policy: inputs.Policy,
		Categories: len(inputs.Categories), PromptRows: schemas.Rows(inputs.Prompts), Sampled: map[schemas.Arm]int64{}, Simulated: inputs.Simulated,
		Hosted: hosted(a.usedEndpoints(req.Spec)), MixRows: schemas.Rows(inputs.Mix),
	}
	for _, in := range inputs.Prompts {
		ref.Unlabelled += in.Unlabelled
		if in.Unusable != "" && len(ref.Notes) < mostNotes {
			ref.Notes = append(ref.Notes, in.Unusable)
		}
	}
	ref.Checks = min(int64(req.Spec.Prompts.Classify.Check), ref.PromptRows-ref.Unlabelled)
	if g := req.Spec.Prompts.Generate; req.Spec.Passes(schemas.StageGenerate) {
		ref.Generated = int64(len(targets(g, inputs.Categories)) * g.Per)
	}
	for _, arm := range req.Spec.Evaluate.Arms {
		for _, suite := range inputs.Suites {
			ref.Sampled[arm] += int64(armRows(req.Spec, arm, int(suite.Rows)))
		}
	}
	return ref, nil
}

// mostNotes bounds the files of which a run notes that rows can't be used: it carries them.
const mostNotes = 10

// role is an endpoint in a part of the run.
type role struct {
	field, name string
	endpoint    llm.Endpoint
	routes      schemas.Role
	shows       shows
	judges      judge.Role  // where it shows a vote
	asks        llm.Request // how it is asked
	err         error       // it is not configured
}

// hosted reports whether others serve its model, and may change it.
func (r role) hosted() bool { return r.err == nil && !r.endpoint.Simulated && r.endpoint.Weights == "" }

// usedEndpoints lists the endpoints that the run asks.
func (a *Activities) usedEndpoints(spec schemas.RunSpec) (used []role) {
	for _, r := range []struct {
		stage  schemas.Stage
		field  string
		routes schemas.Role
		shows  shows
		judges judge.Role
		asks   llm.Request
	}{
		{schemas.StageGenerate, "prompts.generate.teacher", spec.Prompts.Generate.Teacher, showsWord, "", llm.Request{Temperature: generateTemperature(spec), MaxTokens: spec.Prompts.Generate.MaxTokens}},
		{schemas.StageClassify, "prompts.classify.judge", spec.Prompts.Classify.Judge, showsLabel, "", llm.Request{Temperature: judge.Temperature, MaxTokens: spec.Prompts.Classify.MaxTokens}},
		{schemas.StageSynthesize, "synthesize.teacher", spec.Synthesize.Teacher, showsCoT, "", llm.Request{Temperature: *spec.Synthesize.Temperature, MaxTokens: spec.Synthesize.MaxTokens}},
		{schemas.StageFilter, "filter.judge", spec.Filter.Judge, showsVote, judge.RoleFilter, llm.Request{Temperature: judge.Temperature, MaxTokens: spec.Filter.MaxTokens}},
		{schemas.StageRL, "rl.judge", spec.RL.Judge, showsVote, judge.RoleReward, llm.Request{Temperature: judge.Temperature, MaxTokens: spec.Filter.MaxTokens}},
		{schemas.StageGrade, "evaluate.grader", spec.Evaluate.Grader, showsVote, judge.RoleGrade, llm.Request{Temperature: judge.Temperature, MaxTokens: judge.DefaultMaxTokens}},
	} {
		grades := r.stage == schemas.StageGrade && (spec.Passes(schemas.StageSFTGrade) || spec.Passes(schemas.StageRLGrade))
		if spec.Passes(r.stage) || grades {
			for _, name := range r.routes.Endpoints() {
				e, err := a.endpoint(name)
				used = append(used, role{r.field, name, e, r.routes, r.shows, r.judges, r.asks, err})
			}
		}
	}
	return used
}

// checkEndpoints checks that endpoints are configured, and lists those that are
// simulations.
func (a *Activities) checkEndpoints(used []role) (simulated []string, err error) {
	for _, r := range used {
		if r.err != nil {
			return nil, schemas.Errorf("check run spec", r.routes.Field(r.field, r.name), schemas.InvalidInput, "%w", r.err)
		}
		if r.endpoint.Simulated {
			simulated = append(simulated, r.name)
		}
	}
	slices.Sort(simulated)
	return slices.Compact(simulated), nil
}

// hosted lists the endpoints whose models others serve, and may change.
func hosted(used []role) (names []string) {
	for _, r := range used {
		if r.hosted() {
			names = append(names, r.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ReadPolicy reads a policy from where a spec's policy.source says.
func ReadPolicy(ctx context.Context, c config.Config, source string) (*policy.Policy, error) {
	return (&Activities{config: c}).readPolicy(ctx, source)
}

func (a *Activities) readPolicy(ctx context.Context, source string) (*policy.Policy, error) {
	if source == schemas.Builtin {
		return policy.Load(policies.FS)
	}
	if strings.HasPrefix(source, "s3://") {
		store, prefix, err := a.openURI(ctx, source)
		if err != nil {
			return nil, err
		}
		files := fstest.MapFS{}
		for info, err := range store.List(ctx, strings.TrimSuffix(prefix, "/")+"/") {
			if err != nil {
				return nil, err
			}
			raw, _, err := store.Get(ctx, info.Key)
			if err != nil {
				return nil, err
			}
			files[path.Base(info.Key)] = &fstest.MapFile{Data: raw}
		}
		return policy.Load(files)
	}
	if info, err := os.Stat(source); err != nil || !info.IsDir() {
		return nil, schemas.Errorf("read policy", source, schemas.InvalidInput, "there is no such folder on the worker").
			WithHint("Set policy.source to %q, a folder, or an s3:// prefix.", schemas.Builtin)
	}
	return policy.Load(os.DirFS(source))
}

// file is a file to import, on this worker's disk.
type file struct {
	name  string
	path  string
	in    schemas.Import
	fetch func(context.Context) error // nil: it is there already
}

// use is what a file's rows are for.
type use int

const (
	asPrompts use = iota
	asSuite       // written as a shard of prompts at once
	asDataset     // conversations that end with an answer
)

// importFiles reads, checks and copies files.
func (a *Activities) importFiles(ctx context.Context, imports []schemas.Import, builtin fs.FS, p *policy.Policy, limit int, use use) ([]schemas.Input, error) {
	named := map[string]bool{} // suites
	return a.eachFile(ctx, imports, builtin, func(f file, input *schemas.Input) error {
		if use != asSuite {
			if err := countRows(input, f, p, limit, use == asDataset); err != nil {
				return err
			}
			return a.keepFile(ctx, input, f)
		}
		rows, err := readSuite(f, p) // they fit into memory
		if err != nil {
			return err
		}
		input.Rows = int64(len(rows))
		if err := a.keepFile(ctx, input, f); err != nil {
			return err
		}
		if err := a.writeSuite(ctx, input, f, rows); err != nil {
			return err
		}
		if named[input.Name] {
			return schemas.Errorf("import suites", f.name, schemas.InvalidInput, "there is another suite named %q", input.Name).
				WithHint("Give each suite a name of its own: evaluate.suites[].name.")
		}
		named[input.Name] = true
		return nil
	})
}

// eachFile has every file of the imports read, one after the other, from this worker's disk.
func (a *Activities) eachFile(ctx context.Context, imports []schemas.Import, builtin fs.FS, read func(file, *schemas.Input) error) (out []schemas.Input, err error) {
	dir, err := os.MkdirTemp(a.work(), "import-*")
	if err != nil {
		return nil, schemas.E("import", "", schemas.Unavailable, err)
	}
	defer os.RemoveAll(dir)
	for _, in := range imports {
		files, err := a.open(ctx, in, builtin, dir)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if f.fetch != nil {
				if err := f.fetch(ctx); err != nil {
					return nil, err
				}
			}
			input := schemas.Input{Name: f.name, Import: f.in}
			if err := read(f, &input); err != nil {
				return nil, err
			}
			out = append(out, input)
			if f.fetch != nil {
				_ = os.Remove(f.path) // room for the next one; the folder goes in the end
			}
		}
	}
	return out, nil
}

// keepFile copies a file into the store.
func (a *Activities) keepFile(ctx context.Context, input *schemas.Input, f file) (err error) {
	input.Digest, err = shard.PutContent(ctx, a.store, f.path, schemas.InputObject)
	input.Object = schemas.InputObject(input.Digest)
	return err
}

func (a *Activities) writeSuite(ctx context.Context, input *schemas.Input, f file, rows []schemas.Prompt) error {
	input.Name = cmp.Or(f.in.Name, strings.TrimSuffix(path.Base(f.name), path.Ext(f.name)))
	l := lineage{
		Stage: schemas.StagePrompts, Kind: "suite", Version: promptsVersion,
		Inputs: []schemas.Digest{input.Digest}, Params: map[string]any{"import": prompts.Meaning(f.name, f.in), "name": input.Name},
	}
	ref, err := shard.Write(ctx, a.store, schemas.StagePrompts, l.key(), rows, schemas.Ledger{Planned: input.Rows, Kept: input.Rows}, l)
	input.Shard = &ref
	return err
}

// scanFile hands the rows of a file on, the first limit ones where it isn't 0.
func scanFile(path, name string, in schemas.Import, limit int, each func(schemas.Prompt) error) error {
	return scanRows(path, name, in, limit, prompts.Scan, func(r prompts.Imported) error { return each(r.Prompt) })
}

// scanAnswered hands the conversations of a file on.
func scanAnswered(path, name string, in schemas.Import, each func(prompts.Answered) error) error {
	return scanRows(path, name, in, 0, prompts.ScanAnswered, each)
}

func scanRows[T any](path, name string, in schemas.Import, limit int,
	scan func(string, io.ReaderAt, int64, schemas.Import) iter.Seq2[T, error], each func(T) error,
) error {
	f, err := os.Open(path)
	if err != nil {
		return schemas.E("import prompts", name, schemas.InvalidInput, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return schemas.E("import prompts", name, schemas.InvalidInput, err)
	}
	n := 0
	for row, err := range scan(name, f, info.Size(), in) {
		if err != nil {
			return err
		}
		if err := each(row); err != nil {
			return err
		}
		if n++; n == limit {
			return nil
		}
	}
	return nil
}

// checkCategory refuses a row of a category that the policy doesn't have.
func checkCategory(f file, row int64, c schemas.Category, p *policy.Policy) error {
	if slices.Contains(p.Categories(), c) {
		return nil
	}
	err := schemas.Errorf("import prompts", f.name, schemas.InvalidInput, "row %d has category %q; the policy's are %v", row, c, p.Categories())
	if f.in.Classify {
		return err.WithHint(`To have the judge classify such rows, leave the file's column out: "columns": {"category": ""}`)
	}
	return err
}

// countRows checks a file's training prompts, or its conversations, and counts them.
func countRows(input *schemas.Input, f file, p *policy.Policy, limit int, answered bool) error {
	input.ByCategory = map[schemas.Category]int64{}
	var unusable int64
	first := ""
	count := func(r schemas.Prompt) error {
		input.Rows++
		if r.Category != "" {
			if err := checkCategory(f, input.Rows, r.Category, p); err != nil {
				return err
			}
		}
		if labelled(r) {
			input.ByCategory[r.Category]++
		} else {
			input.Unlabelled++
		}
		return nil
	}
	if answered {
		return scanAnswered(f.path, f.name, f.in, func(r prompts.Answered) error { return count(r.Prompt) })
	}
	err := scanRows(f.path, f.name, f.in, limit, prompts.Scan, func(r prompts.Imported) error {
		if err := count(r.Prompt); err != nil {
			return err
		}
		if r.Reason != "" {
			if unusable++; unusable == 1 {
				first = fmt.Sprintf("row %d: %s", input.Rows, r.Wrong)
			}
		}
		return nil
	})
	switch {
	case err != nil || unusable == 0:
		return err
	case unusable == input.Rows:
		return schemas.Errorf("import prompts", f.name, schemas.InvalidInput, "none of its rows can be used; %s", first).
			WithHint("Name the column that holds the text, columns.text, or the turns, columns.messages.")
	}
	input.Unusable = fmt.Sprintf("%s: %d of %d rows can't be used and are rejected; the first is %s", f.name, unusable, input.Rows, first)
	return nil
}

// checkPromptSpec checks what only the policy can tell: which categories there are.
func checkPromptSpec(spec schemas.PromptsSpec, p *policy.Policy) error {
	const op = "check run spec"
	for _, c := range spec.Generate.Categories {
		if !slices.Contains(p.Categories(), c) {
			return schemas.Errorf(op, "prompts.generate.categories", schemas.InvalidInput, "the policy has no category %q; it has %v", c, p.Categories())
		}
	}
	if len(spec.Classify.Judge) > 0 && slices.Contains(p.Categories(), schemas.NoCategory) {
		return schemas.Errorf(op, "prompts.classify", schemas.InvalidInput, "the policy has a category %q, which is the judge's word for no category", schemas.NoCategory)
	}
	return nil
}

// readSuite reads a suite's prompts, each with the label that says what is right.
func readSuite(f file, p *policy.Policy) (rows []schemas.Prompt, err error) {
	err = scanRows(f.path, f.name, f.in, 0, prompts.Scan, func(r prompts.Imported) error {
		rows = append(rows, r.Prompt)
		if r.Reason != "" {
			return schemas.Errorf("import suite", f.name, schemas.InvalidInput, "row %d: %s", len(rows), r.Wrong)
		}
		if err := checkCategory(f, int64(len(rows)), r.Category, p); err != nil {
			return err
		}
		if r.Expected != "" {
			return nil
		}
		expected := &rows[len(rows)-1].Expected
		switch r.Intent {
		case schemas.IntentHarmful:
			*expected = schemas.ActionRefuse
		case schemas.IntentBenign:
			*expected = schemas.ActionComply
		default:
			return schemas.Errorf("import suite", f.name, schemas.InvalidInput,
				"row %d is borderline and has no label; give it a column \"expected\" (comply, safe-completion or refuse)", len(rows))
		}
		return nil
	})
	return rows, err
}

// open finds the files that an import names, and copies those to dir that aren't on
// this worker's disk.
func (a *Activities) open(ctx context.Context, in schemas.Import, builtin fs.FS, dir string) (out []file, err error) {
	const op = "import prompts"
	if in.Path == schemas.Builtin && builtin == nil {
		return nil, schemas.Errorf(op, in.Path, schemas.InvalidInput, "no data set is built in").WithHint("Name a file as the worker sees it, or an s3:// URI.")
	}
	if in.Path == schemas.Builtin {
		names, err := fs.Glob(builtin, "*/*.jsonl")
		if err != nil {
			return nil, err
		}
		// An import of its own, since there may be several.
		if dir, err = os.MkdirTemp(dir, "builtin-*"); err == nil {
			err = os.CopyFS(dir, builtin)
		}
		if err != nil {
			return nil, schemas.E(op, in.Path, schemas.Unavailable, err)
		}
		for _, name := range names {
			out = append(out, file{name: name, path: filepath.Join(dir, filepath.FromSlash(name)), in: in})
		}
		return out, nil
	}
	if strings.HasPrefix(in.Path, "s3://") {
		store, key, err := a.openURI(ctx, in.Path)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "from-s3-"+schemas.DigestOf(in.Path).Short())
		_, err = store.GetFile(ctx, key, path)
		if schemas.KindOf(err) == schemas.NotFound {
			return nil, schemas.E(op, in.Path, schemas.InvalidInput, err)
		}
		return []file{{name: in.Path, path: path, in: in}}, err
	}
	if strings.HasPrefix(in.Path, schemas.HubScheme) {
		return onHub(ctx, in, dir)
	}
	names, err := filepath.Glob(in.Path)
	if err != nil || len(names) == 0 {
		return nil, schemas.Errorf(op, in.Path, schemas.InvalidInput, "there is no such file on the worker").
			WithHint("Use %q, a path as the worker sees it, or an s3:// URI.", schemas.Builtin)
	}
	for _, name := range names {
		out = append(out, file{name: name, path: name, in: in})
	}
	return out, nil
}

// onHub finds the files that an import names on the Hugging Face Hub; they are fetched to
// dir one at a time. Their names tell the commit that they are of.
func onHub(ctx context.Context, in schemas.Import, dir string) (out []file, err error) {
	p, err := schemas.ParseHubPath(in.Path)
	if err != nil {
		return nil, err
	}
	h := hub.FromEnv()
	found, err := h.Find(ctx, p)
	if err != nil {
		return nil, err
	}
	in.Source = cmp.Or(in.Source, p.Repo)
	for _, f := range found {
		path := filepath.Join(dir, "from-hub-"+schemas.DigestOf(f.Name).Short())
		out = append(out, file{f.Name, path, in, func(ctx context.Context) error { return h.Fetch(ctx, p, f, path) }})
	}
	return out, nil
}

// openURI opens the bucket of an s3:// URI by the worker's own S3 settings.
func (a *Activities) openURI(ctx context.Context, uri string) (shard.Store, string, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" || u.Path == "" {
		return nil, "", schemas.Errorf("open", uri, schemas.InvalidInput, "it is not of the form s3://bucket/key")
	}
	c := a.config
	c.Store = config.Store{Bucket: u.Host, Endpoint: c.Store.Endpoint, Region: c.Store.Region, PathStyle: c.Store.PathStyle}
	store, err := c.OpenStore(ctx)
	return store, strings.TrimPrefix(u.Path, "/"), err
}

// putOnce writes what is named by its content.
func (a *Activities) putOnce(ctx context.Context, object string, body []byte) error {
	_, err := a.store.Put(ctx, object, body, shard.PutOptions{IfNoneMatch: true})
	if schemas.KindOf(err) == schemas.Conflict {
		return nil
	}
	return err
}

// armRows is how many of a suite's n rows an arm is asked.
func armRows(spec schemas.RunSpec, arm schemas.Arm, n int) int {
	if most := spec.Evaluate.PolicyArmPrompts; arm == schemas.ArmBasePolicy && most >= 0 {
		return min(n, most)
	}
	return n
}

func (a *Activities) inputs(ctx context.Context, ref schemas.InputsRef) (schemas.Inputs, error) {
	var in schemas.Inputs
	err := shard.GetJSON(ctx, a.store, ref.Object, &in)
	if err == nil && schemas.DigestOf(in) != ref.Digest {
		err = schemas.E("read inputs", ref.Object, schemas.Conflict, fmt.Errorf("another run with this ID has replaced them"))
	}
	return in, err
}
