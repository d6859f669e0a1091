package config

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"stockade/api/setting"
)

// EngineUser owns the range of subordinate ids.
const EngineUser = "stockade-engine"

// subIDs returns the engine's first range in /etc/subuid (or subgid), cut to whole blocks.
func subIDs(file string) (IDs, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return IDs{}, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != EngineUser {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil {
			return IDs{}, fmt.Errorf("%s: %q is not name:first:count", file, strings.TrimSpace(line))
		}
		return IDs{First: uint32(first), Count: uint32(count) / setting.BlockSize * setting.BlockSize}, nil
	}
	return IDs{}, fmt.Errorf("%s has no range for %s", file, EngineUser)
}

// CheckSubIDs tells whether the range may be used: it is explicit in the configuration, or both /etc/subuid and
// /etc/subgid give it to the engine.
func (c Config) CheckSubIDs() error {
	if c.IDs.Count == 0 {
		_, err := subIDs("/etc/subuid")
		if err == nil {
			err = fmt.Errorf("the range of %s in /etc/subuid has no whole block of %d ids", EngineUser, setting.BlockSize)
		}
		return err
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if err := foreign(file, c.IDs); err != nil {
			return err
		}
	}
	return nil
}

// foreign tells whether somebody else was given ids of the range.
func foreign(file string, r IDs) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] == EngineUser {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && first < uint64(r.First)+uint64(r.Count) && uint64(r.First) < first+count {
			return fmt.Errorf("%s gives ids of the range %d+%d to %s", file, r.First, r.Count, f[0])
		}
	}
	return nil
}
