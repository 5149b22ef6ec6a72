package process

import "syscall"

// attributes make a process group, and have the kernel kill the process when the
// worker dies.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
