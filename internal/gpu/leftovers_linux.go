package gpu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"precept/schemas"
)

// endLeftovers kills the processes that carry a mark, and returns when they are gone: until
// then they hold memory of the devices.
func endLeftovers(ctx context.Context, mark string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		pids, err := marked(mark)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := end(ctx, pid, mark, deadline); err != nil {
				return err
			}
		}
		// They may have started others meanwhile.
	}
}

// marked lists the processes that carry a mark.
func marked(mark string) (pids []int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, schemas.E("list processes", "", schemas.Internal, err)
	}
	for _, dir := range all {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && pid != os.Getpid() && carries(pid, mark) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// carries reports whether a process was started under a mark. Of others' processes, and of
// those that have ended, nothing can be read.
func carries(pid int, mark string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for one := range bytes.SplitSeq(raw, []byte{0}) {
		if string(one) == markEnv+"="+mark {
			return true
		}
	}
	return false
}

// end kills a process that carries a mark, and waits for its end. The number of a process that has
// ended may be another's by now: so it is held by a descriptor before it is looked at again.
func end(ctx context.Context, pid int, mark string, deadline time.Time) error {
	const op = "end a leftover"
	thing := fmt.Sprintf("process %d", pid)
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	byHand := fmt.Sprintf("A job that is dead has left it; kill %d by hand.", pid)
	if err != nil {
		return schemas.E(op, thing, schemas.Unavailable, err).WithHint("%s", byHand)
	}
	defer unix.Close(fd)
	if !carries(pid, mark) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return schemas.E(op, thing, schemas.Unavailable, err).WithHint("%s", byHand)
	}
	for {
		// Readable once it has ended.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return schemas.E(op, thing, schemas.Unavailable, err).WithHint("%s", byHand)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return schemas.Errorf(op, thing, schemas.Unavailable, "it was killed and doesn't end: it hangs in the driver").
				WithHint("It holds the device until the machine is started anew.")
		}
	}
}
