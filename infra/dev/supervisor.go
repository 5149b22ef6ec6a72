package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// state is what process-compose says about one process.
type state struct {
	Name     string `json:"name"`
	Status   string `json:"status"`
	Health   string `json:"is_ready"`
	Probed   bool   `json:"has_ready_probe"`
	Running  bool   `json:"is_running"`
	Restarts int    `json:"restarts"`
	ExitCode int    `json:"exit_code"`
	PID      int    `json:"pid"`
	Memory   int64  `json:"mem"`
}

// completed says whether a process that runs once is done.
func (s state) completed() bool { return s.Status == "Completed" && s.ExitCode == 0 }

// failed says whether a process has ended for good without success.
func (s state) failed() bool {
	return s.Status == "Error" || s.Status == "Skipped" || s.Status == "Completed" && s.ExitCode != 0
}

// ready says whether others can count on the process.
func (s state) ready() bool {
	if s.Probed {
		return s.Running && s.Health == "Ready"
	}
	return s.Running && s.Status == "Running"
}

func (s state) String() string {
	switch {
	case s.completed():
		return "done"
	case s.failed() && s.Status != "Skipped":
		return fmt.Sprintf("failed with exit code %d", s.ExitCode)
	case s.Probed && s.Status == "Running" && s.Health != "Ready":
		return "starting"
	default:
		return strings.ToLower(s.Status)
	}
}

// supervisor speaks with process-compose over its socket.
type supervisor struct{ client *http.Client }

func newSupervisor(socket string) supervisor {
	return supervisor{&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (s supervisor) call(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://process-compose"+path, nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("process-compose answers %s to %s %s: %s", resp.Status, method, path, body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

func (s supervisor) alive(ctx context.Context) bool { return s.call(ctx, "GET", "/live", nil) == nil }

func (s supervisor) states(ctx context.Context) ([]state, error) {
	var answer struct {
		Data []state `json:"data"`
	}
	err := s.call(ctx, "GET", "/processes", &answer)
	slices.SortFunc(answer.Data, func(a, b state) int { return strings.Compare(a.Name, b.Name) })
	return answer.Data, err
}

func (s supervisor) restart(ctx context.Context, name string) error {
	return s.call(ctx, "POST", "/process/restart/"+name, nil)
}

func (s supervisor) stop(ctx context.Context) error {
	return s.call(ctx, "POST", "/project/stop", nil)
}

// definition is one process in process-compose.yaml, as far as precept-dev looks at it.
type definition struct {
	Entrypoint   []string            `json:"entrypoint"`
	DependsOn    map[string]struct{} `json:"depends_on"`
	Log          string              `json:"log_location"`
	ReadyLine    string              `json:"ready_log_line"`
	Availability struct {
		Restart string `json:"restart"`
	} `json:"availability"`
	// Background says what a process does that nobody waits for.
	Background string `json:"x-background"`
}

// once says whether the process is to end.
func (d definition) once() bool { return d.Availability.Restart != "always" }

type definitions map[string]definition

func readDefinitions(path string) (definitions, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Processes definitions `json:"processes"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(file.Processes) == 0 {
		return nil, fmt.Errorf("%s names no process", path)
	}
	return file.Processes, nil
}

// closure returns the named processes and all they depend on, sorted; all for no name.
func (ds definitions) closure(names []string) ([]string, error) {
	wanted := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		d, ok := ds[name]
		if !ok {
			return fmt.Errorf("the stack has no process %q; it has %s", name, strings.Join(ds.names(), ", "))
		}
		if wanted[name] {
			return nil
		}
		wanted[name] = true
		for dependency := range d.DependsOn {
			if err := add(dependency); err != nil {
				return err
			}
		}
		return nil
	}
	if len(names) == 0 {
		names = ds.names()
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	var sorted []string
	for name := range wanted {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	return sorted, nil
}

func (ds definitions) names() []string {
	var names []string
	for name := range ds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// program is the file that a process runs: a binary, or the script that a shell gets.
func (d definition) program() string {
	if len(d.Entrypoint) > 1 && d.Entrypoint[0] == "sh" {
		return d.Entrypoint[1]
	}
	return d.Entrypoint[0]
}

// missing reports every program of the named processes that is not there.
func (ds definitions) missing(names []string, exists func(path string) bool) error {
	var errs []error
	seen := map[string]bool{}
	for _, name := range names {
		program := ds[name].program()
		if seen[program] || exists(program) {
			continue
		}
		seen[program] = true
		errs = append(errs, fmt.Errorf("%s is missing, which the process %q runs", program, name))
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New("build with: make tools build"))
	}
	return errors.Join(errs...)
}
