package gpu

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { poses[holderEnv] = pose }

// holderEnv has the test binary pose as a worker: it takes the device of this folder, starts a process
// of another session, tells its number, and waits to be killed.
const holderEnv = "PRECEPT_TEST_HOLDER"

func pose(dir string) error {
	d := cards(9, 80)
	l, err := Take(context.Background(), dir, d, "a worker", quiet)
	if err != nil {
		return err
	}
	job := sleeper(l.Env(d)...)
	if err := job.Start(); err != nil {
		return err
	}
	fmt.Println(job.Process.Pid)
	select {}
}

// sleeper is a process that ends when it is killed, in a session of its own as torchrun's are.
func sleeper(env ...string) *exec.Cmd {
	cmd := exec.Command("sleep", "3600")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// runs reports whether a process has not ended: one that nobody has waited for yet has.
func runs(t *testing.T, pid int) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n == 0
}

// A worker is killed, and what it started lives on: who takes the devices next ends it, and
// nothing else.
func TestTakeEndsWhatADeadHolderLeft(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	worker := exec.Command(self)
	worker.Env = append(os.Environ(), holderEnv+"="+dir)
	worker.Stderr = os.Stderr
	out, err := worker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	job, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	unrelated := sleeper(markEnv + "=another")
	if err := unrelated.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unrelated.Process.Kill(); _ = unrelated.Wait() }()

	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = worker.Wait()
	if !runs(t, job) {
		t.Fatal("the job has not outlived its worker")
	}
	l := take(t, dir, cards(9, 80)...)
	if runs(t, job) {
		t.Error("the job still has the devices")
	}
	if !runs(t, unrelated.Process.Pid) {
		t.Error("an unrelated process was ended")
	}

	// What a job leaves beside its own process ends with its lease.
	left := sleeper(l.Env(nil)...)
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	release(t, l)
	if runs(t, left.Process.Pid) {
		t.Error("what the job left still has the devices")
	}
	_ = left.Wait()
}

// Between the list and the kill a number may have become another's.
func TestWhoCarriesNoMarkIsLeft(t *testing.T) {
	other := sleeper()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	pid := other.Process.Pid
	if err := end(t.Context(), pid, "mark", time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	// What is killed here is gone before the call returns.
	if !runs(t, pid) {
		t.Error("it was ended")
	}
}
