package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "simllm:", err)
		os.Exit(1)
	}
}

func run() error {
	var c config
	listen := flag.String("listen", "127.0.0.1:8089", "address to serve on")
	flag.DurationVar(&c.latency, "latency", 0, "time before every answer")
	flag.DurationVar(&c.jitter, "latency-jitter", 0, "up to this much is added to the latency")
	share := func(to *float64, name string, byDefault float64, help string) {
		flag.Float64Var(to, name, byDefault, "share of requests (0 to 1) "+help)
	}
	share(&c.faults.limit, "rate-429", 0, "that are answered 429 with Retry-After")
	share(&c.faults.fail, "rate-500", 0, "that are answered 500")
	share(&c.faults.stall, "rate-stall", 0, "that are never answered")
	share(&c.faults.cut, "rate-cut", 0, "whose connection is cut in the middle of the answer")
	share(&c.faults.refusal, "rate-refusal", 0, "that the provider refuses: code content_filter, or the field refusal")
	share(&c.faults.garbage, "rate-garbage", 0, "that are answered with garbage")
	share(&c.faults.odd, "rate-odd", 0, "that are replied to as other servers do, well and badly: streams, pages, half a body, other fields")
	flaw := func(to *float64, name, help string) {
		flag.Float64Var(to, name, 0.06, "share of teacher samples (0 to 1) "+help)
	}
	flaw(&c.flaws.decision, "flaw-decision", "that decide wrongly")
	flaw(&c.flaws.citation, "flaw-citation", "that cite no policy")
	flaw(&c.flaws.think, "flaw-think", "without a chain of thought")
	flaw(&c.flaws.lecture, "flaw-lecture", "that lecture")
	flag.IntVar(&c.rpm, "rpm", 0, "requests a minute over which 429 is answered; 0 is no limit")
	flag.IntVar(&c.tpm, "tpm", 0, "tokens a minute over which 429 is answered; 0 is no limit")
	flag.Func("serve-as", "another's `model` name to answer under too, as teacher or judge; may be repeated", func(name string) error {
		c.poses = append(c.poses, name)
		return nil
	})
	flag.IntVar(&c.maxInFlight, "max-in-flight", 0, "requests at once over which 429 is answered; 0 is no limit")
	flag.StringVar(&c.apiKey, "api-key", "", "bearer token to ask for; empty asks for none")
	flag.StringVar(&c.reasoningField, "reasoning-field", "", "message field of the chain of thought: reasoning or reasoning_content; empty keeps it in <think> tags")
	flag.DurationVar(&c.batch.delay, "batch-delay", 0, "time from a batch's submission to its end")
	share(&c.batch.expire, "batch-expire", 0, "of a batch that are not begun before it expires")
	flag.IntVar(&c.batch.queue, "batch-queue", 0, "requests that may wait in batches at once, over which a batch fails; 0 is no limit")
	flag.StringVar(&c.batch.state, "state", "", "folder in which files and batches outlive a restart; empty keeps none")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see simllm -help", flag.Arg(0))
	}
	if err := c.check(); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("can't listen: %w; choose another address with --listen", err)
	}
	// Requests end with the server, so that stalled ones don't hold it up.
	requests, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := newServer(c)
	if err := s.batches.load(); err != nil {
		return fmt.Errorf("can't read --state: %w", err)
	}
	hs := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return requests },
	}
	slog.Info("SIMULATED teacher and judge: no language model runs here", "address", ln.Addr().String(), "models", s.models())
	failed := make(chan error, 1)
	go func() { failed <- hs.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	cancel()
	grace, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if err := hs.Shutdown(grace); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// check refuses values that would silently mean something else.
func (c config) check() error {
	shares := map[string]float64{
		"rate-429": c.faults.limit, "rate-500": c.faults.fail, "rate-stall": c.faults.stall, "rate-cut": c.faults.cut,
		"rate-refusal": c.faults.refusal, "rate-garbage": c.faults.garbage, "rate-odd": c.faults.odd, "batch-expire": c.batch.expire,
		"flaw-decision": c.flaws.decision, "flaw-citation": c.flaws.citation, "flaw-think": c.flaws.think, "flaw-lecture": c.flaws.lecture,
	}
	for name, v := range shares {
		if !(v >= 0 && v <= 1) {
			return fmt.Errorf("--%s must be between 0 and 1, not %v", name, v)
		}
	}
	switch {
	case c.latency < 0 || c.jitter < 0:
		return errors.New("--latency and --latency-jitter must not be negative")
	case c.batch.delay < 0 || c.batch.queue < 0:
		return errors.New("--batch-delay and --batch-queue must not be negative")
	case c.rpm < 0 || c.tpm < 0 || c.maxInFlight < 0:
		return errors.New("--rpm, --tpm and --max-in-flight must not be negative")
	}
	switch c.reasoningField {
	case "", "reasoning", "reasoning_content":
		return nil
	}
	return fmt.Errorf("--reasoning-field must be reasoning or reasoning_content, not %q", c.reasoningField)
}
