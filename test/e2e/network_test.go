//go:build root

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"stockade/test/harness"
)

const page = "Hello from a container that is nobody on its host.\n"

// get fetches a page, and tries again until a server answers.
func get(t testing.TB, address string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	harness.Poll(t, "an answer of "+address, func() (string, bool) {
		resp, err := client.Get("http://" + address)
		if err != nil {
			return err.Error(), false
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		return fmt.Sprintf("%s %q %v", resp.Status, data, err), string(data) == page
	})
}

// otherAddress is an address of the host that is neither loopback nor a bridge's.
func otherAddress(t testing.TB) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() && !strings.HasPrefix(n.IP.String(), "10.231.") {
			if link := linkOf(t, n.IP); !strings.HasPrefix(link, "stk") {
				return n.IP.String()
			}
		}
	}
	t.Fatal("the host has no address but loopback")
	return ""
}

func linkOf(t testing.TB, ip net.IP) string {
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		addresses, _ := l.Addrs()
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return l.Name
			}
		}
	}
	return ""
}

func freePort(t testing.TB) string {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	return port
}

func TestPublish(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		port := freePort(t)
		name := d.start("-p", port+":8080", "stockade/demo")
		d.want("0.0.0.0:"+port, "port", name, "8080/tcp")
		other := otherAddress(t)
		get(t, "127.0.0.1:"+port)
		get(t, other+":"+port)
		ip := d.inspect(name).NetworkSettings.Networks["bridge"].IPAddress.String()
		get(t, ip+":8080")
		for _, from := range []string{ip + ":8080", other + ":" + port} {
			d.want(strings.TrimSpace(page), "run", "--rm", "busybox", "wget", "-q", "-O", "-", "http://"+from)
		}
		d.want(strings.TrimSpace(page), "exec", name, "wget", "-q", "-O", "-", "http://"+other+":"+port) // to itself
		d.fails(125, "port is already allocated", "run", "--rm", "-p", port+":80", "busybox", "true")
		d.ok("rm", "-f", name)
		harness.Poll(t, "the port to be closed", func() (string, bool) {
			conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
			if err == nil {
				conn.Close()
			}
			return "open", err != nil
		})
		get(t, net.JoinHostPort("127.0.0.1", published(d, d.start("-p", port+":8080", "stockade/demo"), "8080"))) // free again
	})
}

// published is the host port of a container's port.
func published(d client, name, port string) string {
	d.t.Helper()
	_, p, err := net.SplitHostPort(strings.Split(d.ok("port", name, port), "\n")[0])
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func TestPublishSpellings(t *testing.T) {
	d := docker(t)
	name := d.start("-p", "127.0.0.1::8080", "stockade/demo")
	port := published(d, name, "8080")
	get(t, "127.0.0.1:"+port)
	client := http.Client{Timeout: 2 * time.Second}
	if resp, err := client.Get("http://" + otherAddress(t) + ":" + port); err == nil {
		resp.Body.Close()
		t.Error("a port of loopback is reached by another address")
	}
	d.ok("restart", "-t", "0", name)
	get(t, "127.0.0.1:"+published(d, name, "8080"))

	first, err := strconv.Atoi(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	ranged := d.start("-p", fmt.Sprintf("127.0.0.1:%d-%d:8079-8080", first, first+1), "stockade/demo")
	get(t, fmt.Sprintf("127.0.0.1:%d", first+1))
	d.want(fmt.Sprintf("8079/tcp -> 127.0.0.1:%d\n8080/tcp -> 127.0.0.1:%d", first, first+1), "port", ranged)

	all := d.start("-P", "stockade/demo")
	get(t, "127.0.0.1:"+published(d, all, "8080"))
	d.fails(1, "No public port", "port", all, "81")
	d.fails(125, "rule host-port", "run", "--rm", "-p", "22:22", "busybox", "true")
}

// TestPublishTaken holds that a port that a host's program has is refused.
func TestPublishTaken(t *testing.T) {
	d := docker(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d.fails(125, "address already in use", "run", "--rm", "-p", l.Addr().String()+":80", "busybox", "true")
}

// echoAddress, in the environment, makes this program an echo of datagrams there.
const echoAddress = "E2E_ECHO"

// echo answers datagrams with what they say.
func echo(address string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for b := make([]byte, 1500); ; {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(b[:n], from); err != nil {
			return err
		}
	}
}

func TestPublishUDP(t *testing.T) {
	d := docker(t)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(d.folder(), "echo")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	name := d.start("-p", port+":9000/udp", "-v", program+":/echo:ro", "-e", echoAddress+"=:9000", "busybox", "/echo")
	d.logged(name, "listening")
	d.want("9000/udp -> 0.0.0.0:"+port, "port", name)
	for _, host := range []string{"127.0.0.1", otherAddress(t)} {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "udp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		harness.Poll(t, "an echo from "+host, func() (string, bool) {
			if _, err := conn.Write([]byte("hello")); err != nil {
				return err.Error(), false
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			b := make([]byte, 100)
			n, err := conn.Read(b)
			return fmt.Sprintf("%q %v", b[:n], err), err == nil && string(b[:n]) == "hello"
		})
	}
}

func TestNetworkFiles(t *testing.T) {
	d := docker(t)
	name := d.sleeper()
	ip := d.inspect(name).NetworkSettings.Networks["bridge"].IPAddress.String()
	id := d.ok("inspect", "-f", "{{.Id}}", name)
	d.want(id[:12], "exec", name, "hostname")
	d.want(ip+"\t"+id[:12], "exec", name, "grep", id[:12], "/etc/hosts")
	d.want("1", "exec", name, "grep", "-c", "^127.0.0.1\tlocalhost", "/etc/hosts")
	d.want("1", "exec", name, "sh", "-c", "grep -c nameserver /etc/resolv.conf | grep -v '^0' | head -1 | sed 's/.*/1/'")
	d.want("ok", "exec", name, "sh", "-c", "echo 1.2.3.4 x >>/etc/hosts && echo ok") // as with Docker, its own copy
	d.want("default via "+d.inspect(name).NetworkSettings.Networks["bridge"].Gateway.String()+" dev eth0", "exec", name, "sh", "-c", "ip route | grep default")
}

func TestNetworks(t *testing.T) {
	both(t, func(t *testing.T, d client) {
		d.want("bridge bridge\nnone null", "network", "ls", "--format", "{{.Name}} {{.Driver}}")
		name := d.sleeper()
		id := d.ok("inspect", "-f", "{{.Id}}", name)
		if out := d.ok("network", "inspect", "bridge"); !strings.Contains(out, id) || !strings.Contains(out, harness.Pool) {
			t.Errorf("the bridge: %s", out)
		}
		d.want("1", "run", "--rm", "--network", "none", "busybox", "sh", "-c", "ls /sys/class/net | wc -l")
		d.fails(125, "network", "run", "--rm", "--network", "host", "busybox", "true")
		d.fails(125, "network", "run", "--rm", "--network", "no-such-network", "busybox", "true")
	})
}
