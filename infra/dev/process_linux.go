package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const procDir = "/proc"

func processByPID(pid int) (process, error) {
	stat, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, err
	}
	state, start, err := parseStat(string(stat))
	if err != nil {
		return process{}, err
	}
	if state == "Z" {
		return process{}, fs.ErrNotExist // Ended; its parent has just not looked yet.
	}
	cmdline, _ := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "cmdline"))
	command := strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	return process{PID: pid, Start: start, command: shorten(command)}, nil
}

// parseStat takes the state and the start time from /proc/PID/stat. The second field, the
// command's name in parentheses, may itself hold spaces and parentheses.
func parseStat(stat string) (state, start string, err error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return "", "", errors.New("malformed stat of a process")
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return "", "", errors.New("malformed stat of a process")
	}
	return fields[0], fields[19], nil
}

// processesWith returns all processes but this one whose environment holds name=value.
// Other users' processes can't be read and are left out.
func processesWith(name, value string) ([]process, error) {
	var found []process
	want := []byte(name + "=" + value)
	err := eachPID(func(pid int) {
		environ, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "environ"))
		if err != nil || pid == os.Getpid() {
			return
		}
		for pair := range bytes.SplitSeq(environ, []byte{0}) {
			if !bytes.Equal(pair, want) {
				continue
			}
			if p, err := processByPID(pid); err == nil {
				found = append(found, p)
			}
			return
		}
	})
	return found, err
}

func eachPID(visit func(pid int)) error {
	entries, err := os.ReadDir(procDir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			visit(pid)
		}
	}
	return nil
}

// portHolder says in words which process listens on a TCP port, as well as it can be told.
func portHolder(port int) string {
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(procDir, "net", table))
		if err != nil {
			continue
		}
		inode, uid, ok := listener(string(text), port)
		if !ok {
			continue
		}
		if p, ok := socketOwner(inode); ok {
			return p.String()
		}
		return fmt.Sprintf("a process of user %s that can't be looked into", uid)
	}
	return "an unknown process"
}

// listener finds the socket that listens on a port in the text of /proc/net/tcp.
func listener(table string, port int) (inode, uid string, ok bool) {
	const listening = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) >= 10 && strings.HasSuffix(fields[1], suffix) && fields[3] == listening {
			return fields[9], fields[7], true
		}
	}
	return "", "", false
}

func socketOwner(inode string) (owner process, ok bool) {
	want := "socket:[" + inode + "]"
	_ = eachPID(func(pid int) {
		if ok {
			return
		}
		fds := filepath.Join(procDir, strconv.Itoa(pid), "fd")
		entries, _ := os.ReadDir(fds)
		for _, fd := range entries {
			if target, err := os.Readlink(filepath.Join(fds, fd.Name())); err == nil && target == want {
				if p, err := processByPID(pid); err == nil {
					owner, ok = p, true
					return
				}
			}
		}
	})
	return owner, ok
}

func shorten(command string) string {
	const most = 80
	if len(command) > most {
		return command[:most] + "…"
	}
	return command
}
