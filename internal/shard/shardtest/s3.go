package shardtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"precept/internal/shard"
)

// S3 starts a versitygw on a temporary folder for the length of the test and
// returns a store on a fresh bucket of it. Its credentials are in the environment
// that the test's processes inherit, so the test can't run in parallel with others.
//
// Where the program is missing the test is skipped, or fails when
// PRECEPT_REQUIRE_TOOLS=1.
func S3(t testing.TB) *shard.S3 {
	t.Helper()
	program, err := find("versitygw")
	if err != nil {
		if os.Getenv("PRECEPT_REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	const id, secret = "precept", "precept-test-secret"
	t.Setenv("AWS_ACCESS_KEY_ID", id)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")

	address := start(t, program, id, secret)
	s, err := shard.NewS3(t.Context(), shard.Config{
		Bucket: "precept-test", Prefix: "some/prefix", Endpoint: "http://" + address, Region: "us-east-1", PathStyle: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs the gateway and waits until it answers. A port that was free a moment
// ago may be taken, so it tries more than one.
func start(t testing.TB, program, id, secret string) (address string) {
	t.Helper()
	dir := t.TempDir()
	var output bytes.Buffer
	for range 5 {
		address := freeAddress(t)
		output.Reset()
		cmd := exec.Command(program, "--port", address, "--health", "/health", "--keep-alive", "posix", dir)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+id, "ROOT_SECRET_ACCESS_KEY="+secret)
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		if healthy("http://"+address+"/health", ended) {
			t.Cleanup(func() { cmd.Process.Kill(); <-ended })
			return address
		}
		cmd.Process.Kill()
		<-ended
	}
	t.Fatalf("%s does not start:\n%s", program, output.String())
	return ""
}

func healthy(url string, ended <-chan struct{}) bool {
	deadline := time.After(30 * time.Second)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if response, err := http.Get(url); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return true
			}
		}
		select {
		case <-poll.C:
		case <-ended:
			return false
		case <-deadline:
			return false
		}
	}
}

func freeAddress(t testing.TB) string {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// find looks for a tool in .precept/bin of the repository, then in PATH.
func find(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			program := filepath.Join(dir, ".precept", "bin", name)
			if _, err := os.Stat(program); err == nil {
				return program, nil
			}
			break
		}
		if filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	program, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is neither in .precept/bin nor in PATH: this test wants a real S3 server", name)
	}
	return program, err
}
