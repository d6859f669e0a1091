package netd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"stockade/internal/failpoint"
	"stockade/internal/seqpacket"
)

// records is the folder with the one file that tells which endpoints exist.
//
// The file is replaced by rename, so a killed process leaves the old or the new one. It is not synced: after a power
// cut the links are gone as well, and with them every endpoint.
type records struct{ folder *os.File }

const (
	recordName = "endpoints.json"
	recordTemp = "endpoints.json.tmp"
)

type recordFile struct {
	Version   int                  `json:"version"`
	Endpoints map[string]*endpoint `json:"endpoints"`
}

func (r records) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(r.folder.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// load reads the records; no file means none.
func (r records) load() (map[string]*endpoint, error) {
	f, err := r.open(recordName, unix.O_RDONLY)
	if errors.Is(err, unix.ENOENT) {
		return map[string]*endpoint{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 16<<20))
	if err != nil {
		return nil, err
	}
	return parseRecords(data)
}

func parseRecords(data []byte) (map[string]*endpoint, error) {
	var file recordFile
	if err := seqpacket.Decode(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", recordName, err)
	}
	if file.Version != 1 {
		return nil, fmt.Errorf("%s: version %d, want 1", recordName, file.Version)
	}
	for id, e := range file.Endpoints {
		if checkID(id) != nil || e == nil || !e.Address.Is4() {
			return nil, fmt.Errorf("%s: invalid endpoint %q", recordName, id)
		}
		if _, err := net.ParseMAC(e.MAC); err != nil {
			return nil, fmt.Errorf("%s: endpoint %s: %w", recordName, id, err)
		}
		for _, p := range e.Ports {
			if (p.Proto != "tcp" && p.Proto != "udp") || p.HostPort == 0 || p.Container == 0 {
				return nil, fmt.Errorf("%s: endpoint %s: invalid port", recordName, id)
			}
		}
	}
	if file.Endpoints == nil {
		file.Endpoints = map[string]*endpoint{}
	}
	return file.Endpoints, nil
}

func (r records) save(endpoints map[string]*endpoint) error {
	data, err := json.Marshal(recordFile{Version: 1, Endpoints: endpoints})
	if err != nil {
		return err
	}
	f, err := r.open(recordTemp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write records: %w", err)
	}
	failpoint.Hit("netd.records.written")
	dir := int(r.folder.Fd())
	if err := unix.Renameat(dir, recordTemp, dir, recordName); err != nil {
		return fmt.Errorf("write records: %w", err)
	}
	return nil
}
