//go:build bench

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/taskqueue/v1"

	"precept/policies"
	"precept/schemas"
)

// peer is another program that does Precept's synthesize, with its settings. See
// bench/peers.
type peer struct {
	name     string
	venv     string // below PEERS_HOME
	script   string
	inFlight int // requests at once; by default what TestPeersSettings found best
	flags    []string
}

var (
	dataDesigner = peer{"Data Designer", "data-designer", "data_designer_job.py", 256, nil}
	curator      = peer{"Curator", "bespokelabs-curator", "curator_job.py", 256, nil}
	distilabel   = peer{"distilabel", "distilabel", "distilabel_job.py", 256, nil}
	datatrove    = peer{"datatrove", "datatrove", "datatrove_job.py", 1024, nil}
)

// preceptInFlight is what TestPeersSettings found best for Precept.
const preceptInFlight = 1024

func (p peer) with(flags ...string) peer {
	p.name += " " + strings.Join(flags, " ")
	p.flags = append(slices.Clone(p.flags), flags...)
	return p
}

func (p peer) at(inFlight int) peer {
	p.inFlight = inFlight
	return p
}

// work is a folder with the prompts of all, a mock, and nothing that remembers.
type work struct {
	*stack
	url     string
	n       int
	prompts string
	system  []byte
	runs    int // so far; makes every job's requests new
}

// marker is in the prompt that the mock refuses.
const marker = "REFUSE-ME"

func newWork(t *testing.T, n int, refused bool) *work {
	t.Helper()
	s, url := mocked(t, 250*time.Millisecond, 64, "--refuse", marker)
	w := &work{stack: s, url: url, n: n, prompts: filepath.Join(s.dir, "peers.jsonl")}
	f, err := os.Create(w.prompts)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := bufio.NewWriter(f)
	i := 0
	for line := range strings.Lines(texts(n)) {
		var row map[string]any
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		row["id"] = fmt.Sprintf("p%06d", i)
		if refused && i == n/2 {
			row["text"] = row["text"].(string) + " " + marker
		}
		raw, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(raw, '\n'))
		i++
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	// As long as what Precept sends for one of its categories.
	for _, name := range []string{"violence.md", "style.md", "harassment.md"} {
		raw, err := policies.FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		w.system = append(w.system, raw...)
	}
	w.system = w.system[:min(len(w.system), 15_000)]
	return w
}

// figures are what one job did and cost.
type figures struct {
	rows       int64         // with an answer
	job, whole time.Duration // without and with the start of the processes
	cpu, start time.Duration // of the job, of its start
	peak       float64       // MiB
	ledger     book
	ended      string // how, where it isn't well
}

func (f figures) String() string {
	each := float64(max(1, f.ledger.Requests))
	return fmt.Sprintf("%5.0f rows/s, %5.0f with start, CPU %5.2f s a 1,000 (start %.1f s), peak %4.0f MiB, %d rows, %d requests (%d repeated, %d refused) of %.1f KB%s",
		float64(f.rows)/f.job.Seconds(), float64(f.rows)/f.whole.Seconds(), f.cpu.Seconds()/each*1000, f.start.Seconds(), f.peak,
		f.rows, f.ledger.Requests, f.ledger.Repeated, f.ledger.Refused, float64(f.ledger.Bytes)/each/1000, f.ended)
}

// book is the mock's ledger.
type book struct{ Requests, Repeated, Refused, Bytes int64 }

func (w *work) book() (b book) {
	w.Helper()
	resp, err := http.Get(w.url + "/ledger")
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&b); err != nil {
		w.Fatal(err)
	}
	return b
}

func (b book) since(a book) book {
	return book{b.Requests - a.Requests, b.Repeated - a.Repeated, b.Refused - a.Refused, b.Bytes - a.Bytes}
}

// command starts a peer's script in a folder, as the current run.
func (w *work) command(p peer, name, folder string) *process {
	w.Helper()
	system := filepath.Join(w.dir, "system.txt")
	if err := os.WriteFile(system, fmt.Appendf(nil, "Policy %d.\n\n%s", w.runs, w.system), 0o644); err != nil {
		w.Fatal(err)
	}
	args := []string{filepath.Join(w.root, "bench/peers", p.script), "run", "--work", folder,
		"--url", w.url + "/v1", "--prompts", w.prompts, "--system", system, "--in-flight", fmt.Sprint(p.inFlight)}
	return w.start(name, p.python(w), append(args, p.flags...)...)
}

func (p peer) python(w *work) string {
	w.Helper()
	path := filepath.Join(os.Getenv("PEERS_HOME"), p.venv, "bin", "python")
	if _, err := os.Stat(path); err != nil {
		w.Skipf("PEERS_HOME must hold the peers' environments, see bench/peers/README.md: %v", err)
	}
	return path
}

// answered counts the prompts that have an answer in what a peer left.
func (w *work) answered(p peer, folder string) int64 {
	w.Helper()
	out, err := exec.Command(p.python(w), filepath.Join(w.root, "bench/peers", p.script), "count", "--work", folder).Output()
	if err != nil {
		w.Logf("%s: no answers can be read: %v", p.name, err)
		return 0
	}
	var count struct{ Rows int64 }
	if err := json.Unmarshal(last(out), &count); err != nil {
		w.Fatalf("%s: %v\n%s", p.name, err, out)
	}
	return count.Rows
}

// last is the last line of a text.
func last(text []byte) []byte {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return []byte(lines[len(lines)-1])
}

// peerJob measures one job of a peer.
func (w *work) peerJob(p peer) (f figures) {
	w.Helper()
	w.runs++
	name := fmt.Sprintf("peer-%d", w.runs)
	folder := filepath.Join(w.dir, name)
	before, begun := w.book(), time.Now()
	run := w.command(p, name, folder)
	used := watch(run)
	<-run.done
	f.whole = time.Since(begun)
	f.peak, f.cpu = used()
	f.ledger = w.book().since(before)
	raw, err := os.ReadFile(filepath.Join(w.dir, name+".log"))
	if err != nil {
		w.Fatal(err)
	}
	state := run.cmd.ProcessState
	// Of children that nobody waits for, the operating system's sum knows nothing.
	f.cpu = max(f.cpu, state.UserTime()+state.SystemTime())
	f.job = f.whole
	var own struct {
		Seconds float64 `json:"seconds"`
		Startup float64 `json:"startup_cpu"`
	}
	if json.Unmarshal(last(raw), &own) == nil && own.Seconds > 0 {
		f.job = time.Duration(own.Seconds * float64(time.Second))
		f.start = time.Duration(own.Startup * float64(time.Second))
		f.cpu -= f.start
	}
	if !state.Success() {
		f.ended = "; " + state.String() + "; " + said(raw)
	}
	f.rows = w.answered(p, folder)
	return f
}

// said is the end of a log on one line.
func said(raw []byte) string {
	words := strings.Fields(string(raw[max(0, len(raw)-3000):]))
	text := strings.Join(words, " ")
	return text[max(0, len(text)-700):]
}

// spec is a run of Precept that ends with synthesize and asks nothing that was asked before.
func (w *work) spec() schemas.RunSpec {
	spec := w.many(10)
	spec.Prompts.Imports = []schemas.Import{{Path: w.prompts}}
	spec.Until = schemas.StageSynthesize
	spec.Synthesize.Temperature = new(float64(w.runs) / 1000)
	return spec
}

func (w *work) bear(inFlight int) {
	for _, endpoint := range w.config["endpoints"].(map[string]any) {
		endpoint.(map[string]any)["max_in_flight"] = inFlight
	}
}

// preceptJob measures one run of Precept with a new worker: the whole run, and its stage synthesize alone.
// The services' CPU and memory are those of Temporal and the S3 gateway, and are in neither.
func (w *work) preceptJob(inFlight int) (run, stage, services figures) {
	w.Helper()
	w.runs++
	w.bear(inFlight)
	program := w.built("worker")
	id := fmt.Sprintf("peers-%d", w.runs)
	other := func() (sum time.Duration) { return w.parts["temporal"].cpu(w.T) + w.parts["s3"].cpu(w.T) }
	before, beside, begun := w.book(), other(), time.Now()
	worker := w.start(id, program, "--config", w.write("worker.json", w.config), "--queues", "factory,llm")
	used, usedBeside := watch(worker), watch(w.parts["temporal"], w.parts["s3"])
	// A worker that polls has started.
	w.await("the worker", time.Minute, func() bool {
		d, err := w.client.DescribeTaskQueue(w.Context(), schemas.QueueFactory, enums.TASK_QUEUE_TYPE_WORKFLOW)
		return err == nil && slices.ContainsFunc(d.Pollers, func(p *taskqueue.PollerInfo) bool { return p.LastAccessTime.AsTime().After(begun) })
	})
	run.start = worker.cpu(w.T)
	started := time.Now()
	handle := w.startRun(id, w.spec())
	var synthesizing, synthesized time.Duration
	w.await("synthesize", 10*time.Minute, func() bool {
		p, ok := w.progress(id)
		switch {
		case !ok:
			return false
		case p.Stage == schemas.StagePrompts:
			synthesizing = worker.cpu(w.T)
			return false
		case p.Waiting != nil:
			w.Fatalf("the run waits: %s", p.Waiting.Question)
		}
		d, err := w.client.DescribeWorkflowExecution(w.Context(), id, "")
		return err == nil && d.WorkflowExecutionInfo.Status == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
	})
	run.job, run.whole = time.Since(started), time.Since(begun)
	synthesized = worker.cpu(w.T)
	services.cpu = other() - beside
	run.cpu = synthesized - run.start
	run.peak, _ = used()
	services.peak, _ = usedBeside()
	report := w.report(handle, time.Minute)
	run.ledger = w.book().since(before)
	worker.kill()
	sum := report.Stages[1]
	run.rows = sum.Ledger.Kept
	stage, services.ledger = run, run.ledger
	stage.job = time.Duration(sum.Seconds * float64(time.Second))
	stage.cpu = synthesized - synthesizing
	run.ended, stage.ended = "; "+sum.Ledger.String(), "; "+sum.Ledger.String()
	return run, stage, services
}

// watch samples what processes and all that they start use, until it is asked for the
// largest sum of their memory and the sum of their CPU. Memory is the proportional set
// size, so that what forks share counts once.
func watch(roots ...*process) (used func() (mib float64, cpu time.Duration)) {
	stop, done := make(chan struct{}), make(chan struct{})
	var most float64
	times := map[int]time.Duration{}
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			var sum float64
			for _, pid := range group(roots) {
				if t, ok := cpuOf(pid); ok {
					times[pid] = t
				}
				sum += pss(pid, i)
			}
			most = max(most, sum)
		}
	}()
	return func() (mib float64, cpu time.Duration) {
		close(stop)
		<-done
		for _, t := range times {
			cpu += t
		}
		return most, cpu
	}
}

// group lists the processes in the groups of some.
func group(roots []*process) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		pgid, err := syscall.Getpgid(pid)
		if err == nil && slices.ContainsFunc(roots, func(p *process) bool { return p.cmd.Process.Pid == pgid }) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// pss is read at every fifth sample, because it costs.
func pss(pid, sample int) (mib float64) {
	if sample%5 != 0 {
		return 0
	}
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0 // it has ended
}

func load() string {
	raw, _ := os.ReadFile("/proc/loadavg")
	return strings.Fields(string(raw))[0]
}

// TestPeersSettings measures each setting once.
func TestPeersSettings(t *testing.T) {
	w := newWork(t, number("PEERS_ROWS", 4_000), false)
	levels := []int{64, 256, 1024}
	for _, p := range []peer{
		dataDesigner, dataDesigner.with("--chunk", "4000"),
		curator,
		distilabel, distilabel.with("--processes", "2"),
		datatrove, datatrove.with("--processes", "2"),
	} {
		for _, inFlight := range levels {
			w.measure(p.at(inFlight))
		}
	}
	for _, inFlight := range levels {
		w.measurePrecept(inFlight)
	}
}

// TestPeers measures Precept beside its peers, each at its best setting, in turn.
// PEERS_ONLY is a regular expression of the names to measure beside Precept.
func TestPeers(t *testing.T) {
	w := newWork(t, number("PEERS_ROWS", 4_000), false)
	only, err := regexp.Compile(os.Getenv("PEERS_ONLY"))
	if err != nil {
		t.Fatal(err)
	}
	for range number("PEERS_ROUNDS", 3) {
		for _, p := range []peer{
			dataDesigner.with("--chunk", "4000"),
			curator,
			distilabel, distilabel.with("--processes", "2"), distilabel.with("--durable"),
			datatrove, datatrove.with("--processes", "2"),
			datatrove.with("--durable"), datatrove.with("--processes", "2", "--durable"),
		} {
			if only.MatchString(p.name) {
				w.measure(p)
			}
		}
		w.measurePrecept(preceptInFlight)
	}
}

func (w *work) measure(p peer) {
	w.Helper()
	f := w.peerJob(p)
	if f.rows != int64(w.n) {
		w.Errorf("%s: %d rows, want %d", p.name, f.rows, w.n)
	}
	w.Logf("%-34s %4d in flight: %s; load %s", p.name, p.inFlight, f, load())
}

func (w *work) measurePrecept(inFlight int) {
	w.Helper()
	run, stage, services := w.preceptJob(inFlight)
	if run.rows != int64(w.n) {
		w.Errorf("Precept: %d rows, want %d", run.rows, w.n)
	}
	w.Logf("%-34s %4d in flight: %s; load %s", "Precept, whole run", inFlight, run, load())
	w.Logf("%-34s %4d in flight: %s", "Precept, synthesize", inFlight, stage)
	w.Logf("%-34s CPU %.2f s a 1,000, peak %.0f MiB", "  Temporal and the S3 gateway", services.cpu.Seconds()/float64(w.n)*1000, services.peak)
}

// TestPeersRefusal has one prompt of a thousand refused by the provider.
func TestPeersRefusal(t *testing.T) {
	w := newWork(t, number("PEERS_ROWS", 1_000), true)
	for _, p := range []peer{
		dataDesigner,
		curator, curator.with("--tolerant"),
		distilabel,
		datatrove, datatrove.with("--tolerant"),
	} {
		t.Logf("%-28s %s", p.name, w.peerJob(p.at(64)))
	}
	run, _, _ := w.preceptJob(64)
	t.Logf("%-28s %s", "Precept", run)
}

// TestPeersKilled kills every process half-way, and starts the job again as the
// peer's documentation says.
func TestPeersKilled(t *testing.T) {
	w := newWork(t, number("PEERS_ROWS", 4_000), false)
	for range number("PEERS_ROUNDS", 1) {
		for _, p := range []peer{
			dataDesigner, dataDesigner.with("--chunk", "100"),
			curator,
			distilabel.with("--durable"),
			datatrove.with("--durable"), datatrove.with("--durable", "--chunk", "100"),
		} {
			w.runs++
			name := fmt.Sprintf("killed-%d", w.runs)
			folder := filepath.Join(w.dir, name)
			before := w.book()
			p = p.at(64)
			first := w.command(p, name, folder)
			atKill := w.half(before, first.kill, first.done)
			begun := time.Now()
			second := w.command(p, name, folder)
			ended := "it hangs: no request for a minute, and no end"
			if !w.stuck(second) {
				ended = second.cmd.ProcessState.String()
			}
			w.outcome(p.name, before, atKill, w.answered(p, folder), time.Since(begun), ended)
		}
		w.runs++
		w.bear(64)
		id := fmt.Sprintf("killed-%d", w.runs)
		before := w.book()
		w.start("worker", w.built("worker"), "--config", w.write("worker.json", w.config), "--queues", "factory,llm")
		w.startRun(id, w.spec())
		atKill := w.half(before, func() {
			for _, part := range []string{"worker", "temporal", "s3"} {
				w.parts[part].kill()
			}
		}, nil)
		begun := time.Now()
		for _, part := range []string{"s3", "temporal", "worker"} {
			w.revive(part)
		}
		w.await("the run's end", 10*time.Minute, func() bool {
			if p, ok := w.progress(id); ok && p.Waiting != nil {
				t.Fatalf("the run waits: %s", p.Waiting.Question)
			}
			d, err := w.client.DescribeWorkflowExecution(t.Context(), id, "")
			return err == nil && d.WorkflowExecutionInfo.Status == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
		})
		took := time.Since(begun)
		report := w.report(w.client.GetWorkflow(t.Context(), id, ""), time.Minute)
		w.outcome("Precept", before, atKill, report.Stages[1].Ledger.Kept, took, report.Stages[1].Ledger.String())
		w.parts["worker"].kill()
	}
}

// half waits until half of the prompts were answered, kills, and returns what was charged by then.
func (w *work) half(before book, kill func(), done chan struct{}) book {
	w.Helper()
	w.await("half of the answers", 10*time.Minute, func() bool {
		select {
		case <-done:
			w.Fatal("the job ended before half of it was answered")
		default:
		}
		return w.book().since(before).Requests >= int64(w.n/2)
	})
	kill()
	// The mock answers what it holds, heard or not.
	charged := w.book()
	for still := time.Now(); time.Since(still) < 600*time.Millisecond; time.Sleep(50 * time.Millisecond) {
		if now := w.book(); now != charged {
			charged, still = now, time.Now()
		}
	}
	return charged.since(before)
}

// stuck waits for a job's end; one that asks nothing for a minute is killed.
func (w *work) stuck(p *process) bool {
	w.Helper()
	for asked, at := w.book().Requests, time.Now(); ; {
		select {
		case <-p.done:
			return false
		case <-time.After(50 * time.Millisecond):
		}
		if now := w.book().Requests; now != asked {
			asked, at = now, time.Now()
		}
		if time.Since(at) > time.Minute {
			p.kill()
			return true
		}
	}
}

func (w *work) outcome(name string, before, atKill book, rows int64, took time.Duration, ended string) {
	total := w.book().since(before)
	w.Logf("%-34s charged %d at the kill, %d in all: %d paid twice; %d of %d rows; resumed in %.1f s, %s",
		name, atKill.Requests, total.Requests, total.Repeated, rows, w.n, took.Seconds(), ended)
}
