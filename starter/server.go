package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"

	"precept/internal/garbage"
	"precept/schemas"
	"precept/workflows"
)

// server is the Temporal server as the commands see it.
type server interface {
	// start starts a run; attached says that it ran already.
	start(ctx context.Context, run schemas.RunID, spec schemas.RunSpec) (attached bool, err error)
	// look says where a run stands. What waiting may mend, a server or worker that
	// is away, is part of the sight; what it can't is an error.
	look(ctx context.Context, run schemas.RunID) (sight, error)
	// decide answers a gate.
	decide(ctx context.Context, run schemas.RunID, verdict string, d schemas.Decision) (decided, error)
	// retry asks again for rows that failed: of a run that waits, or of one that has
	// ended, which it starts again. For that, stored tells whether there are such rows, and
	// the spec where Temporal has forgotten the run.
	retry(ctx context.Context, run schemas.RunID, d schemas.Decision, stored func() (schemas.RunSpec, error)) (decided, error)
	// underway lists the runs that have not ended.
	underway(ctx context.Context) ([]garbage.Run, error)
	// link is the run's page in the UI; empty where none is known.
	link(run schemas.RunID) string
	close()
}

// How long a call waits for an answer. A look must not keep a watch from showing
// a sign of life every few seconds.
const (
	describeWait = 2 * time.Second
	queryWait    = 3 * time.Second
	startWait    = 10 * time.Second
	decideWait   = 20 * time.Second
	listWait     = 30 * time.Second
)

// temporalServer is a server reached by the Temporal client.
type temporalServer struct {
	client  client.Client
	options client.Options
}

// dial reads where the server is from the environment and temporal.toml. It sends
// nothing yet, so that a watch can wait for a server that is away.
func dial() (server, error) {
	const op = "connect to Temporal"
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, schemas.E(op, "", schemas.InvalidInput, err).WithHint("Check the TEMPORAL_ variables and temporal.toml")
	}
	options.Logger = log.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	if options.HostPort == "" {
		options.HostPort = client.DefaultHostPort
	}
	if options.Namespace == "" {
		options.Namespace = client.DefaultNamespace
	}
	c, err := client.NewLazyClient(options)
	if err != nil {
		return nil, schemas.E(op, options.HostPort, schemas.InvalidInput, err).WithHint("Check the TEMPORAL_ variables and temporal.toml")
	}
	return &temporalServer{client: c, options: options}, nil
}

func (s *temporalServer) close() { s.client.Close() }

func (s *temporalServer) link(run schemas.RunID) string {
	ui := strings.TrimRight(os.Getenv("PRECEPT_UI"), "/")
	if ui == "" {
		return ""
	}
	return fmt.Sprintf("%s/namespaces/%s/workflows/%s", ui, url.PathEscape(s.options.Namespace), url.PathEscape(string(run)))
}

func (s *temporalServer) start(ctx context.Context, run schemas.RunID, spec schemas.RunSpec) (bool, error) {
	const op = "start run"
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	full := spec.WithDefaults()
	options := startOptions(run, full)
	// The error tells that it runs already, which UseExisting would not.
	options.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL
	options.WorkflowExecutionErrorWhenAlreadyStarted = true
	_, err := s.client.ExecuteWorkflow(ctx, options, workflows.FactoryName, spec)
	var runs *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &runs) {
		return true, s.sameSpec(ctx, run, full)
	}
	if err != nil {
		return false, s.error(op, run, err)
	}
	return false, nil
}

func startOptions(run schemas.RunID, full schemas.RunSpec) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:                    string(run),
		TaskQueue:             schemas.QueueFactory,
		WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:         fmt.Sprintf("%s: %s, teacher %s, judge %s", full.Name, full.Base, clip(full.Synthesize.Teacher.String(), 80), clip(full.Filter.Judge.String(), 80)),
	}
}

// sameSpec refuses to attach to a run that was started with another spec.
func (s *temporalServer) sameSpec(ctx context.Context, run schemas.RunID, spec schemas.RunSpec) error {
	const op = "attach to run"
	running, err := s.specOf(ctx, op, run)
	if err != nil {
		return err
	}
	running, spec = running.WithDefaults(), spec.WithDefaults()
	running.Schema, spec.Schema = "", ""
	if schemas.DigestOf(running) != schemas.DigestOf(spec) {
		return schemas.Errorf(op, string(run), schemas.InvalidInput, "it runs with another spec").
			WithHint("Start this one under its own ID with --run ID, or end that one first")
	}
	return nil
}

// specOf is the spec that a run was last started with.
func (s *temporalServer) specOf(ctx context.Context, op string, run schemas.RunID) (spec schemas.RunSpec, err error) {
	events := s.client.GetWorkflowHistory(ctx, string(run), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !events.HasNext() {
		return spec, schemas.Errorf(op, string(run), schemas.Internal, "its history is empty")
	}
	first, err := events.Next()
	if err != nil {
		return spec, s.error(op, run, err)
	}
	attributes := first.GetWorkflowExecutionStartedEventAttributes()
	if name := attributes.GetWorkflowType().GetName(); name != workflows.FactoryName {
		return spec, notFactory(op, run, name)
	}
	if err := s.decode(attributes.GetInput(), &spec); err != nil {
		return spec, schemas.E(op, string(run), schemas.Internal, err)
	}
	return spec, nil
}

// decode reads the first of payloads.
func (s *temporalServer) decode(payloads *commonpb.Payloads, v any) error {
	data := s.options.DataConverter
	if data == nil {
		data = converter.GetDefaultDataConverter()
	}
	if len(payloads.GetPayloads()) == 0 {
		return errors.New("there is no data")
	}
	return data.FromPayload(payloads.GetPayloads()[0], v)
}

func notFactory(op string, run schemas.RunID, name string) error {
	return schemas.Errorf(op, string(run), schemas.InvalidInput, "the workflow is a %s, not a %s", name, workflows.FactoryName).
		WithHint("List the runs with: temporal workflow list --query 'WorkflowType=\"%s\"'", workflows.FactoryName)
}

func (s *temporalServer) look(ctx context.Context, run schemas.RunID) (sight, error) {
	const op = "look at run"
	describe, cancel := context.WithTimeout(ctx, describeWait)
	defer cancel()
	d, err := s.client.DescribeWorkflowExecution(describe, string(run), "")
	if err != nil {
		if lasting(err) || ctx.Err() != nil {
			return sight{}, s.error(op, run, err)
		}
		return sight{Away: "server", Why: s.cause(err)}, nil
	}
	info := d.GetWorkflowExecutionInfo()
	if name := info.GetType().GetName(); name != workflows.FactoryName {
		return sight{}, notFactory(op, run, name)
	}
	seen := sight{}
	if info.GetCloseTime() != nil {
		if seen, err = s.ending(ctx, run); err != nil || seen.Ended == nil || seen.Ended.Report != nil {
			return seen, err
		}
		// Without a result a worker can still tell what was done and spent.
		if p, err := s.progress(ctx, run); err == nil {
			seen.Progress = p
		}
		return seen, nil
	}
	for _, a := range d.GetPendingActivities() {
		seen.Tasks = append(seen.Tasks, s.task(a))
	}
	if seen.Progress, err = s.progress(ctx, run); err == nil || schemas.KindOf(err) == schemas.Internal {
		return seen, err
	}
	if ctx.Err() != nil {
		return sight{}, ctx.Err()
	}
	seen.Away, seen.Why = "worker", s.cause(err)
	return seen, nil
}

// progress asks a worker where a run stands.
func (s *temporalServer) progress(ctx context.Context, run schemas.RunID) (*schemas.Progress, error) {
	ctx, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	value, err := s.client.QueryWorkflow(ctx, string(run), "", schemas.QueryProgress)
	if err != nil {
		return nil, err
	}
	var p schemas.Progress
	if err := value.Get(&p); err != nil {
		return nil, schemas.E("look at run", string(run), schemas.Internal, err).WithHint("Use a starter of the worker's version")
	}
	return &p, nil
}

// ending reads how a closed run ended.
func (s *temporalServer) ending(ctx context.Context, run schemas.RunID) (sight, error) {
	ctx, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	var report schemas.RunReport
	err := s.client.GetWorkflow(ctx, string(run), "").Get(ctx, &report)
	if err == nil {
		return sight{Ended: &end{Report: &report}}, nil
	}
	var (
		failure    *temporal.WorkflowExecutionError
		app        *temporal.ApplicationError
		terminated *temporal.TerminatedError
		timeout    *temporal.TimeoutError
	)
	switch {
	case !errors.As(err, &failure):
		return sight{Away: "server", Why: s.cause(err)}, nil
	case errors.As(err, &app):
		return sight{Ended: &end{Failure: oneLine(app.Message()), Kind: schemas.Kind(app.Type())}}, nil
	case errors.As(err, &terminated):
		return sight{Ended: &end{Failure: "it was terminated"}}, nil
	case temporal.IsCanceledError(err):
		return sight{Ended: &end{Failure: "it was cancelled"}}, nil
	case errors.As(err, &timeout):
		return sight{Ended: &end{Failure: "it ran into its time limit"}}, nil
	}
	return sight{Ended: &end{Failure: oneLine(failure.Unwrap().Error())}}, nil
}

func (s *temporalServer) task(a *workflowpb.PendingActivityInfo) openTask {
	t := openTask{
		ID:       a.GetActivityId(),
		Activity: a.GetActivityType().GetName(),
		Taken:    a.GetState() == enumspb.PENDING_ACTIVITY_STATE_STARTED,
		Attempt:  a.GetAttempt(),
		Failure:  oneLine(a.GetLastFailure().GetMessage()),
	}
	var p schemas.TaskProgress
	// A heartbeat of another form is not worth more than no heartbeat.
	if s.decode(a.GetHeartbeatDetails(), &p) == nil {
		t.Progress = &p
	}
	return t
}

func (s *temporalServer) decide(ctx context.Context, run schemas.RunID, verdict string, d schemas.Decision) (decided, error) {
	update, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	var record schemas.DecisionRecord
	handle, err := s.client.UpdateWorkflow(update, client.UpdateWorkflowOptions{
		WorkflowID: string(run), UpdateName: verdict, Args: []any{d}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = handle.Get(update, &record)
	}
	if err == nil {
		return decided{Record: &record}, nil
	}
	var refused *temporal.ApplicationError
	if errors.As(err, &refused) {
		return decided{}, schemas.Errorf(verdict+" run", string(run), schemas.Conflict, "%s", refused.Message()).
			WithHint("See what waits: starter progress %s", schemas.ShellWord(string(run)))
	}
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		describe, cancel := context.WithTimeout(ctx, describeWait)
		defer cancel()
		if _, err := s.client.DescribeWorkflowExecution(describe, string(run), ""); err == nil {
			return decided{}, schemas.Errorf(verdict+" run", string(run), schemas.Conflict, "it has ended, and waits for nothing").
				WithHint("See how it ended: starter progress %s", schemas.ShellWord(string(run)))
		}
	}
	if lasting(err) || ctx.Err() != nil {
		return decided{}, s.error(verdict+" run", run, err)
	}
	why := s.cause(err)
	if d.Gate == "" && verdict != schemas.DecisionRetry {
		return decided{}, schemas.Errorf(verdict+" run", string(run), schemas.Unavailable, "no answer: %s", why).
			WithHint("Name the gate to leave the decision as a signal, or try again when a worker is back")
	}
	// An update that nobody took is lost; a signal is kept.
	signal, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	if err := s.client.SignalWorkflow(signal, string(run), "", verdict, d); err != nil {
		return decided{}, s.error(verdict+" run", run, err)
	}
	return decided{Signalled: true, Why: why}, nil
}

func (s *temporalServer) retry(ctx context.Context, run schemas.RunID, d schemas.Decision, stored func() (schemas.RunSpec, error)) (decided, error) {
	const op = "retry run"
	describe, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	seen, err := s.client.DescribeWorkflowExecution(describe, string(run), "")
	var gone *serviceerror.NotFound
	forgotten := errors.As(err, &gone)
	if err != nil && !forgotten {
		return decided{}, s.error(op, run, err)
	}
	if !forgotten && seen.GetWorkflowExecutionInfo().GetCloseTime() == nil {
		return s.decide(ctx, run, schemas.DecisionRetry, d)
	}
	start, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	spec, err := stored()
	if err == nil && !forgotten {
		spec, err = s.specOf(start, op, run)
	}
	if err != nil {
		return decided{}, err
	}
	// The signal comes with the start, so that the run knows of it before its first stage.
	_, err = s.client.SignalWithStartWorkflow(start, string(run), schemas.SignalRetry, d, startOptions(run, spec.WithDefaults()), workflows.FactoryName, spec)
	if err != nil {
		return decided{}, s.error(op, run, err)
	}
	return decided{Started: true}, nil
}

func (s *temporalServer) underway(ctx context.Context) (runs []garbage.Run, err error) {
	const op = "list runs"
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType=%q AND ExecutionStatus=%q", workflows.FactoryName, "Running"),
	}
	for {
		list, cancel := context.WithTimeout(ctx, listWait)
		page, err := s.client.ListWorkflow(list, request)
		cancel()
		if err != nil {
			return nil, s.error(op, "", err)
		}
		for _, e := range page.GetExecutions() {
			run := garbage.Run{ID: schemas.RunID(e.GetExecution().GetWorkflowId())}
			if run.Started, err = s.began(ctx, run.ID); err != nil {
				return nil, err
			}
			runs = append(runs, run)
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return runs, nil
		}
	}
}

// began is when a run started; zero where that was an earlier link of its chain.
func (s *temporalServer) began(ctx context.Context, run schemas.RunID) (at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	d, err := s.client.DescribeWorkflowExecution(ctx, string(run), "")
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return at, nil // it has ended since it was listed
	}
	if err != nil {
		return at, s.error("look at run", run, err)
	}
	info := d.GetWorkflowExecutionInfo()
	if info.GetFirstRunId() != info.GetExecution().GetRunId() {
		return at, nil
	}
	return info.GetStartTime().AsTime(), nil
}

// lasting tells errors that waiting doesn't mend.
func lasting(err error) bool {
	var (
		notFound  *serviceerror.NotFound
		namespace *serviceerror.NamespaceNotFound
		denied    *serviceerror.PermissionDenied
		invalid   *serviceerror.InvalidArgument
	)
	return errors.As(err, &notFound) || errors.As(err, &namespace) || errors.As(err, &denied) || errors.As(err, &invalid)
}

// cause is the short reason for which nobody answered.
func (s *temporalServer) cause(err error) string {
	var late *serviceerror.DeadlineExceeded
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &late) {
		return "no answer in time from " + s.options.HostPort
	}
	return oneLine(err.Error())
}

// error says what a call's failure means for the user.
func (s *temporalServer) error(op string, run schemas.RunID, err error) error {
	var (
		notFound  *serviceerror.NotFound
		namespace *serviceerror.NamespaceNotFound
		denied    *serviceerror.PermissionDenied
		invalid   *serviceerror.InvalidArgument
	)
	switch {
	case errors.As(err, &namespace):
		return schemas.Errorf(op, string(run), schemas.NotFound, "the server at %s has no namespace %q", s.options.HostPort, s.options.Namespace).
			WithHint("Set TEMPORAL_NAMESPACE, or create it: temporal operator namespace create %s", s.options.Namespace)
	case errors.As(err, &notFound):
		return schemas.Errorf(op, string(run), schemas.NotFound, "no such run is going on in namespace %q", s.options.Namespace).
			WithHint("Start it: starter start SPEC.json --run %s", schemas.ShellWord(string(run)))
	case errors.As(err, &denied):
		return schemas.E(op, string(run), schemas.InvalidInput, err).WithHint("Check TEMPORAL_API_KEY or the TLS settings")
	case errors.As(err, &invalid):
		return schemas.E(op, string(run), schemas.InvalidInput, err)
	}
	return schemas.Errorf(op, string(run), schemas.Unavailable, "the server at %s does not answer: %s", s.options.HostPort, s.cause(err)).
		WithHint("Start the embedded one with: make up, or set TEMPORAL_ADDRESS")
}
