package main

import (
	"fmt"
	"slices"
	"syscall"
	"time"
)

// process is one running process of this machine. Its start tells it from a later one
// that got the same PID.
type process struct {
	PID     int    `json:"pid"`
	Start   string `json:"start"`
	command string
}

func (p process) String() string { return fmt.Sprintf("%s (PID %d)", p.command, p.PID) }

// alive says whether this very process still runs.
func (p process) alive() bool {
	now, err := processByPID(p.PID)
	return err == nil && now.Start == p.Start
}

// signal sends sig, unless the PID has gone to another process.
func (p process) signal(sig syscall.Signal) {
	if p.alive() {
		_ = syscall.Kill(p.PID, sig) // It may have just ended.
	}
}

// terminate asks processes to end and kills those that are still there after patience.
// It returns those that outlive even that.
func terminate(ps []process, patience time.Duration) []process {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for _, p := range ps {
			p.signal(sig)
		}
		for deadline := time.Now().Add(patience); len(ps) > 0 && time.Now().Before(deadline); {
			ps = slices.DeleteFunc(slices.Clone(ps), func(p process) bool { return !p.alive() })
			if len(ps) > 0 {
				time.Sleep(50 * time.Millisecond)
			}
		}
	}
	return ps
}
