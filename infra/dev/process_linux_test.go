package main

import (
	"net"
	"os"
	"strings"
	"testing"
)

func TestPortHolderIsFound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	me, err := processByPID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if got := portHolder(l.Addr().(*net.TCPAddr).Port); got != me.String() {
		t.Errorf("the holder is %q, want this process, %q", got, me)
	}
}

func TestListener(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1C41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 123456 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1B9E 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 777777 1 0000000000000000 20 4 30 10 -1
broken line
`
	for _, test := range []struct {
		name       string
		port       int
		inode, uid string
		found      bool
	}{
		{"listens", 7233, "123456", "1000", true},
		{"is only connected", 7070, "", "", false},
		{"is not there", 1, "", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			inode, uid, found := listener(table, test.port)
			if inode != test.inode || uid != test.uid || found != test.found {
				t.Errorf("listener = %q, %q, %v", inode, uid, found)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	rest := strings.Repeat(" 0", 18)
	for _, test := range []struct{ name, stat, state, start string }{
		{"plain", "12 (sh) S" + rest + " 4711 0", "S", "4711"},
		{"a name like the format", "12 (a) S 1 (b) Z" + rest + " 4711 0", "Z", "4711"},
	} {
		t.Run(test.name, func(t *testing.T) {
			state, start, err := parseStat(test.stat)
			if err != nil || state != test.state || start != test.start {
				t.Errorf("parseStat = %q, %q, %v", state, start, err)
			}
		})
	}
	for _, broken := range []string{"", "12 (sh", "12 (sh) S 1 2"} {
		if _, _, err := parseStat(broken); err == nil {
			t.Errorf("parseStat(%q) finds no fault", broken)
		}
	}
}
