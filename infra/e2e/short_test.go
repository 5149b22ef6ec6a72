//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestShortChaos is TestChaos in a minute: to one run happens a burst of 503s, then the
// gateway is killed, and then one of its workers, while the other one is frozen. A third
// takes over from both.
func TestShortChaos(t *testing.T) {
	const rows, latency = 400, 200 * time.Millisecond
	calm := begin(t, rows, latency, nil) // goes on beside the other
	s := begin(t, rows, latency, func(s *trial) {
		behindProxy(s)
		watched(s)
		// Of the seven tasks each has as many as it takes: a poll that waits when its
		// worker freezes would be given the next one, and cost another heartbeat's time.
		s.worker("victim", "factory,llm", "--tasks", "4")
		s.worker("worker", "llm", "--tasks", "3")
		for _, name := range []string{"victim", "worker"} {
			s.await(name, time.Minute, func() bool {
				log, err := os.ReadFile(filepath.Join(s.dir, name+".log"))
				return err == nil && strings.Contains(string(log), "worker is ready")
			})
		}
	})
	s.middle(0.05)
	s.proxy.disturb(disturbance{share: 1, do: slowDown.do})
	s.await("503s", time.Minute, func() bool { _, hits := s.proxy.count(); return hits >= 10 })
	s.proxy.disturb(disturbance{})
	repeats := killGateway(s)
	s.middle(0.3)
	worker := s.parts["worker"]
	worker.signal(syscall.SIGSTOP)
	s.parts["victim"].kill()
	repeats += s.lost(2)
	repeats += s.takeOver(worker)

	undisturbed := calm.end()
	calm.isPeaceful(undisturbed)
	s.compare(s.end(), undisturbed, repeats)
}
