//go:build root

package attack

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"stockade/test/harness"
)

// T-307: log drivers that make the server dial out or read files are refused with the reason, and nothing dials. What Docker
// does with the same options is shown by test/compat (TestLogDriversOfThePeer); here, the control shows that the listener hears.
func TestLogDrivers(t *testing.T) {
	s := harness.Get(t)
	var heard atomic.Int64
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	socket := folder(t) + "/socket"
	local, err := net.Listen("unix", socket)
	must(t, err)
	must(t, os.Chmod(socket, 0o777))
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	for _, l := range []net.Listener{tcp, local} {
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				heard.Add(1)
				c.Close()
			}
		}()
	}
	t.Cleanup(func() { udp.Close() })
	go func() {
		for {
			if _, _, err := udp.ReadFrom(make([]byte, 2000)); err != nil {
				return
			}
			heard.Add(1)
		}
	}()
	before := objects(t, s)
	address := tcp.Addr().String()
	for _, c := range []struct{ driver, options string }{
		{"syslog", ""}, {"syslog", `"syslog-address":"tcp://` + address + `"`}, {"syslog", `"syslog-address":"udp://` + udp.LocalAddr().String() + `"`}, {"syslog", `"syslog-address":"unix://` + socket + `"`}, {"syslog", `"syslog-address":"unixgram:///dev/log"`},
		{"syslog", `"syslog-address":"tcp+tls://` + address + `","syslog-tls-ca-cert":"/etc/shadow","syslog-tls-key":"/etc/shadow"`},
		{"gelf", `"gelf-address":"udp://` + udp.LocalAddr().String() + `"`}, {"gelf", `"gelf-address":"tcp://` + address + `"`}, {"fluentd", ""}, {"fluentd", `"fluentd-address":"` + address + `"`}, {"fluentd", `"fluentd-address":"unix://` + socket + `"`},
		{"splunk", `"splunk-url":"http://` + address + `","splunk-token":"x","splunk-capath":"/etc/shadow"`}, {"awslogs", `"awslogs-group":"x","awslogs-endpoint":"http://` + address + `","awslogs-credentials-endpoint":"/latest"`}, {"gcplogs", `"gcp-project":"x"`},
		{"journald", ""}, {"etwlogs", ""}, {"logentries", `"logentries-token":"x"`}, {"default", ""}, {"Fluentd", ""}, {"JSON-FILE", ""}, {"json-file ", ""}, {"vieux/sshfs:latest", ""}, {"../json-file", ""}, {`json-file\u0000`, ""},
		{"json-file", `"fluentd-address":"` + address + `"`}, {"json-file", `"syslog-address":"tcp://` + address + `"`}, {"json-file", `"path":"/etc/passwd"`}, {"json-file", `"Max-Size":"1m"`}, {"local", `"path":"/etc/passwd"`}, {"none", `"gelf-address":"udp://` + udp.LocalAddr().String() + `"`},
		{"", `"fluentd-address":"` + address + `"`},
	} {
		r := s.API(t, s.User, "POST", "/v1.51/containers/create", fmt.Sprintf(`{"Image":"busybox","HostConfig":{"LogConfig":{"Type":"%s","Config":{%s}}}}`, c.driver, c.options))
		if r.Status != 403 || !strings.Contains(r.Body, "HostConfig.LogConfig") || !strings.Contains(r.Body, "(rule log-driver): use json-file, local or none") {
			t.Errorf("%q with %s: want the rule and a remedy: %d %s", c.driver, c.options, r.Status, r.Body)
		}
	}
	if after := objects(t, s); after != before {
		t.Errorf("a refusal had an effect: %s", after)
	}
	// Options that are allowed hold patterns and templates: the server evaluates none of them.
	id := s.Must(t, "run", "-d", "--network=none", "-e", "SECRET=of-the-environment", "--label", "a=b", "--log-opt", "env-regex=(a+)+$", "--log-opt", "labels-regex=((.*)*)*x", "--log-opt", `tag={{.DaemonName}} {{range $i, $e := .ContainerEnv}}{{$e}}{{end}} {{printf "%999999999d" 1}}`,
		"--log-opt", "env=SECRET", "busybox", "echo", "said")
	t.Cleanup(func() { s.Must(t, "rm", "-f", id) })
	s.Must(t, "wait", id)
	if got := s.Must(t, "logs", "--details", id); !strings.HasSuffix(got, "said") || len(got) > 200 {
		t.Errorf("the log is %.500q", got)
	}
	healthy(t, s)
	if n := heard.Load(); n != 0 {
		t.Errorf("%d connections to a log server", n)
	}
	for network, to := range map[string]string{"tcp": address, "unix": socket, "udp": udp.LocalAddr().String()} {
		c, err := net.Dial(network, to)
		must(t, err)
		_, _ = c.Write([]byte("x")) // the listener may have closed it
		c.Close()
	}
	harness.Poll(t, "control: three connections", func() (string, bool) { return fmt.Sprint(heard.Load()), heard.Load() >= 3 })
}
