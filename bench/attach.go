package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// measureAttach reads what a container writes through attach, while it goes into its log as usual.
func measureAttach(ctx context.Context, b *bench) ([]result, error) {
	return one(ctx, row{
		name: "attach", what: "output of a container through attach, with a log", unit: "MB/s", bars: []bar{{against: name29, least: 1}},
		rounds: max(b.rounds/3, 3), sides: b.servers,
		round: func(ctx context.Context, s *side) (float64, error) { return attachRate(ctx, s, 200) },
	})
}

func attachRate(ctx context.Context, s *side, megabytes int) (_ float64, err error) {
	id, err := create(ctx, s, "", "bench", "bytes", strconv.Itoa(megabytes))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, remove(context.WithoutCancel(ctx), s, id)) }()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.host)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fmt.Fprintf(conn, "POST /v%s/containers/%s/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n", s.version, id)
	r := bufio.NewReaderSize(conn, 256<<10)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return 0, fmt.Errorf("attach: %s", resp.Status)
	}
	if err := start(ctx, s, id); err != nil {
		return 0, err
	}
	began := time.Now()
	n, err := io.Copy(io.Discard, &frames{r: r})
	seconds := time.Since(began).Seconds()
	if err == nil && n != int64(megabytes)*1e6 {
		err = fmt.Errorf("attach gave %d bytes of %d MB", n, megabytes)
	}
	return float64(n) / 1e6 / seconds, err
}
