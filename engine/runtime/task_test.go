package runtime

import "testing"

func TestAsRunc(t *testing.T) {
	for got, want := range map[string]string{
		"executable file `x` not found in $PATH: No such file or directory":               `exec: "x": executable file not found in $PATH`,
		"the path `/etc/passwd` exists but it is not executable: Operation not permitted": `exec: "/etc/passwd": permission denied`,
		"open executable `/no/such`: No such file or directory":                           `exec: "/no/such": no such file or directory`,
		`exec: "x": executable file not found in $PATH`:                                   `exec: "x": executable file not found in $PATH`,
	} {
		if a := asRunc(got); a != want {
			t.Errorf("%q: %q, want %q", got, a, want)
		}
	}
}
