package grantd

import (
	"os"

	"stockade/api/setting"
	"stockade/internal/userns"
)

// mapOf makes one side of the map: on disk, own is the caller's id and appears as target; every other id goes to the
// ghost range, which no process has and which lies outside of U.
//
// Ghosts, not absence: with foreign ids unmapped, files of others could never be changed, not even in the caller's own
// folders; with identity, they would belong to real users, the engine's uid among them.
func mapOf(own, target uint32, ghost setting.IDRange) []userns.Map {
	var maps []userns.Map
	if n := min(own, ghost.Count); n > 0 {
		maps = append(maps, userns.Map{Inside: 0, Outside: ghost.First, Count: n})
	}
	maps = append(maps, userns.Map{Inside: own, Outside: target, Count: 1})
	if next := own + 1; next < ghost.Count {
		maps = append(maps, userns.Map{Inside: next, Outside: ghost.First + next, Count: ghost.Count - next})
	}
	return maps
}

// idMap makes the user namespace that carries the map. It is this process's, a child of the initial one.
func idMap(c caller, uid, gid uint32, ghost setting.IDRange) (*os.File, error) {
	files, err := userns.Create(0, mapOf(c.UID, uid, ghost), mapOf(c.GID, gid, ghost))
	if err != nil {
		return nil, err
	}
	return files["user"], nil
}
