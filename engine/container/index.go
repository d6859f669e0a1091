package container

import (
	"slices"
	"strings"
	"sync"
)

// index finds containers by id, name and id prefix, each tenant for itself.
type index struct {
	mu      sync.RWMutex
	tenants map[string]*tenantIndex
}

type tenantIndex struct {
	byID  map[string]*item
	ids   []string          // sorted, for prefixes
	names map[string]string // name → id
}

func newIndex() *index { return &index{tenants: map[string]*tenantIndex{}} }

// reserve takes a name for id. The second value is the id of the container that has it already.
func (x *index) reserve(tenant, name, id string) (bool, string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.tenants[tenant]
	if t == nil {
		t = &tenantIndex{byID: map[string]*item{}, names: map[string]string{}}
		x.tenants[tenant] = t
	}
	if owner, taken := t.names[name]; taken {
		return false, owner
	}
	t.names[name] = id
	return true, ""
}

// release gives a name back that id has.
func (x *index) release(tenant, name, id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := x.tenants[tenant]; t != nil && t.names[name] == id {
		delete(t.names, name)
	}
}

// add makes a container visible whose name is reserved.
func (x *index) add(c *item) {
	v := c.view()
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.tenants[v.Tenant]
	t.byID[v.ID] = c
	i, _ := slices.BinarySearch(t.ids, v.ID)
	t.ids = slices.Insert(t.ids, i, v.ID)
}

// remove forgets a container and its name.
func (x *index) remove(c *item) {
	v := c.view()
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.tenants[v.Tenant]
	if t == nil {
		return
	}
	delete(t.byID, v.ID)
	if i, ok := slices.BinarySearch(t.ids, v.ID); ok {
		t.ids = slices.Delete(t.ids, i, i+1)
	}
	if t.names[v.Name] == v.ID {
		delete(t.names, v.Name)
	}
}

// find looks for a container: full id, then name, then unique id prefix. SECURITY(T-204): other tenants' containers are
// not in the tables that are searched.
func (x *index) find(tenant, ref string) (*item, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	t := x.tenants[tenant]
	if ref == "" {
		return nil, invalid("invalid name or ID supplied: %q", ref)
	}
	if t == nil {
		return nil, notFound("No such container: %s", ref)
	}
	if c := t.byID[ref]; c != nil {
		return c, nil
	}
	if id, ok := t.names[strings.TrimPrefix(ref, "/")]; ok {
		if c := t.byID[id]; c != nil {
			return c, nil
		}
	}
	i, _ := slices.BinarySearch(t.ids, ref)
	if i >= len(t.ids) || !strings.HasPrefix(t.ids[i], ref) {
		return nil, notFound("No such container: %s", ref)
	}
	if i+1 < len(t.ids) && strings.HasPrefix(t.ids[i+1], ref) {
		return nil, invalid("multiple IDs found with provided prefix: %s", ref)
	}
	return t.byID[t.ids[i]], nil
}

// all lists a tenant's containers; "" lists everybody's.
func (x *index) all(tenant string) []*item {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []*item
	for name, t := range x.tenants {
		if tenant != "" && name != tenant {
			continue
		}
		for _, c := range t.byID {
			out = append(out, c)
		}
	}
	return out
}
