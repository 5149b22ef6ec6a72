//go:build !linux

package process

import "syscall"

// attributes make a process group.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
