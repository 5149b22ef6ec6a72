package main

import (
	"bufio"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// marked starts a shell with a mark that ignores SIGTERM when it is stubborn, and a child.
func marked(t *testing.T, mark string, stubborn bool) *exec.Cmd {
	t.Helper()
	script := "sleep 1000 & echo ready; wait"
	if stubborn {
		script = "trap '' TERM; sleep 1000 & echo ready; while :; do wait; done"
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(cmd.Environ(), markName+"="+mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestLeftoversAreFoundAndEnded(t *testing.T) {
	for _, stubborn := range []bool{false, true} {
		mark := t.TempDir()
		cmd := marked(t, mark, stubborn)
		other := marked(t, mark+"-other", false)

		members, err := processesWith(markName, mark)
		if err != nil {
			t.Fatal(err)
		}
		pids := []int{}
		for _, p := range members {
			pids = append(pids, p.PID)
		}
		if len(members) != 2 || !slices.Contains(pids, cmd.Process.Pid) {
			t.Fatalf("members are %v, want the shell %d and its child", members, cmd.Process.Pid)
		}
		if left := terminate(members, 500*time.Millisecond); len(left) > 0 {
			t.Errorf("still there: %v", left)
		}
		if members, err = processesWith(markName, mark); err != nil || len(members) > 0 {
			t.Errorf("members after terminate: %v, %v", members, err)
		}
		if p, err := processByPID(other.Process.Pid); err != nil || !p.alive() {
			t.Errorf("another checkout's process was ended: %v", err)
		}
	}
}

// A PID that was given to another process must never be signalled.
func TestReusedPIDIsLeftAlone(t *testing.T) {
	cmd := marked(t, t.TempDir(), false)
	p, err := processByPID(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	earlier := p
	earlier.Start = "0"
	if earlier.alive() {
		t.Error("a process of another start counts as alive")
	}
	earlier.signal(syscall.SIGKILL)
	if !p.alive() {
		t.Error("a process was killed for one that had its PID before")
	}
}
