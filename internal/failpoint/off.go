//go:build !failpoint

package failpoint

// Hit is a failpoint where a process can be killed or delayed.
func Hit(string) {}

// Fail is a failpoint where, besides, an error can be returned.
func Fail(string) error { return nil }
