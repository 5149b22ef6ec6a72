// Command worker hosts the task queues of Precept named by flag: factory
// (workflows and light work), llm (calls to language models) and gpu (training
// and serving).
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"precept/activities"
	"precept/internal/config"
	"precept/internal/gpu"
	"precept/internal/shard"
	"precept/schemas"
	"precept/workflows"
)

func main() {
	configPath := flag.String("config", envOr("PRECEPT_CONFIG", "infra/dev/worker.yaml"), "the worker's configuration file (env PRECEPT_CONFIG)")
	queues := flag.String("queues", "factory,llm", "the queues to host, of factory, llm, gpu")
	tasks := flag.Int("tasks", 8, "tasks at a time on the queues factory and llm; gpu has one")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err := run(*configPath, strings.Split(*queues, ","), *tasks); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(configPath string, queues []string, tasks int) error {
	for _, q := range queues {
		if !slices.Contains([]string{schemas.QueueFactory, schemas.QueueLLM, schemas.QueueGPU}, q) {
			return fmt.Errorf("there is no queue %q; --queues takes factory, llm, gpu", q)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	least := int64(300 << 20)
	if slices.Equal(queues, []string{schemas.QueueGPU}) {
		least = 120 << 20 // it passes files on, and the trainer beside it needs the memory
	}
	boundMemory(ctx, least)
	c, err := config.Load(configPath)
	if err != nil {
		return err
	}
	store, err := c.OpenStore(ctx)
	if err != nil {
		return err
	}
	if err := store.CreateBucket(ctx); err != nil {
		return err
	}
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return fmt.Errorf("read Temporal's client configuration: %w", err)
	}
	options.Logger = sdklog.NewStructuredLogger(slog.Default())
	temporal, err := client.Dial(options)
	if err != nil {
		return fmt.Errorf("connect to Temporal (set TEMPORAL_ADDRESS or a profile): %w", err)
	}
	defer temporal.Close()

	host, err := os.Hostname()
	if err != nil {
		return err
	}
	holder := fmt.Sprintf("%s-%d", host, os.Getpid())
	journal := shard.OpenJournal(store, shard.JournalOptions{Writer: holder})
	acts := activities.New(c, store, journal, holder)

	if slices.Contains(queues, schemas.QueueGPU) {
		tellDevices(ctx, c.GPU)
	}
	var workers []worker.Worker
	for _, q := range queues {
		o := worker.Options{
			MaxConcurrentActivityExecutionSize: tasks,
			WorkerStopTimeout:                  longestAnswer(c) + 10*time.Second,
			// People watch tasks by their heartbeats.
			MaxHeartbeatThrottleInterval: 3 * time.Second,
			DisableRegistrationAliasing:  true,
			DisableWorkflowWorker:        q != schemas.QueueFactory,
		}
		if q == schemas.QueueGPU {
			o.MaxConcurrentActivityExecutionSize = 1
			o.WorkerStopTimeout = 3 * time.Minute
		}
		w := worker.New(temporal, q, o)
		if q == schemas.QueueFactory {
			w.RegisterWorkflowWithOptions(workflows.Factory, workflow.RegisterOptions{Name: workflows.FactoryName})
		}
		w.RegisterActivity(acts)
		if err := w.Start(); err != nil {
			return fmt.Errorf("host queue %s: %w", q, err)
		}
		workers = append(workers, w)
	}
	slog.Info("worker is ready", "queues", queues, "endpoints", c.EndpointNames())
	<-ctx.Done()
	slog.Info("worker stops")
	// Together: each gives its tasks time to put away what they have.
	var stopped sync.WaitGroup
	for _, w := range workers {
		stopped.Go(w.Stop)
	}
	stopped.Wait()
	activities.Close(acts)
	return journal.Close(context.Background())
}

// tellDevices logs the devices that jobs will have. Each job looks for them again.
func tellDevices(ctx context.Context, c gpu.Config) {
	found, err := gpu.List(ctx, c)
	if err != nil {
		slog.Error("the devices can't be listed: jobs will fail until they can", "error", err)
		return
	}
	slog.Info("devices", "found", found.String())
}

// longestAnswer is how long a request may be in flight.
func longestAnswer(c config.Config) (longest time.Duration) {
	for _, e := range c.Endpoints {
		longest = max(longest, e.AnswerWithin())
	}
	return longest
}

// boundMemory has the garbage collector run seldom, since little of what passes through
// a worker stays, but before the heap is large: reading Parquet makes garbage faster than
// the collector would expect. The bound moves with what is live and with the stacks, which
// it counts too, so that the collector never works against it in vain. It is least at least.
func boundMemory(ctx context.Context, least int64) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	room := least / 2
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(least)
	held := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"}, {Name: "/memory/classes/metadata/other:bytes"},
	}
	go func() {
		for {
			select {
			case <-time.After(2 * time.Second):
				metrics.Read(held)
				var sum int64
				for _, m := range held {
					sum += int64(m.Value.Uint64())
				}
				debug.SetMemoryLimit(max(least, sum+max(room, sum/4)))
			case <-ctx.Done():
				return
			}
		}
	}()
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}
