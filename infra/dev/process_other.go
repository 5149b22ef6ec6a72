//go:build !linux

package main

import (
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Without /proc the same questions go to ps and lsof.

func processByPID(pid int) (process, error) {
	out, err := exec.Command("ps", "-o", "stat=,lstart=,command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return process{}, fs.ErrNotExist
	}
	fields := strings.Fields(string(out))
	if len(fields) < 7 || strings.HasPrefix(fields[0], "Z") {
		return process{}, fs.ErrNotExist
	}
	return process{PID: pid, Start: strings.Join(fields[1:6], " "), command: strings.Join(fields[6:], " ")}, nil
}

// processesWith returns all processes but this one whose environment holds name=value.
func processesWith(name, value string) ([]process, error) {
	// e adds the environment after the command.
	out, err := exec.Command("ps", "axeww", "-o", "pid=,command=").Output()
	if err != nil {
		return nil, err
	}
	var found []process
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || !strings.Contains(line+" ", " "+name+"="+value+" ") {
			continue
		}
		pid, err := strconv.Atoi(fields[0])
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, err := processByPID(pid); err == nil {
			found = append(found, p)
		}
	}
	return found, nil
}

// portHolder says in words which process listens on a TCP port, as well as it can be told.
func portHolder(port int) string {
	out, err := exec.Command("lsof", "-nP", "-t", "-iTCP:"+strconv.Itoa(port), "-sTCP:LISTEN").Output()
	if fields := strings.Fields(string(out)); err == nil && len(fields) > 0 {
		if pid, err := strconv.Atoi(fields[0]); err == nil {
			if p, err := processByPID(pid); err == nil {
				return p.String()
			}
		}
	}
	return "an unknown process"
}
