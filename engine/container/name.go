package container

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

const nameChars = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

var namePattern = regexp.MustCompile("^" + nameChars + "+$")

// newID makes the id of a container or an exec: 64 hex digits that are not all decimal at the start, so that a short id
// is never a number.
func newID() string {
	b := make([]byte, 32)
	for {
		rand.Read(b)
		id := hex.EncodeToString(b)
		if strings.ContainsAny(id[:12], "abcdef") {
			return id
		}
	}
}

var adjectives = strings.Fields(`able amber bold brave brisk calm clever crisp daring eager fair fleet fond frosty gentle
glad golden happy hardy honest jolly keen kind lively loyal lucid mellow merry mild modest neat nimble noble patient
plucky polite proud quick quiet quirky rapid ready robust serene sharp shiny silent silver simple smart snug solid
steady stoic sturdy sunny swift tidy tranquil trusty upbeat vivid warm wise witty zesty`)

var nouns = strings.Fields(`abel babbage bell bohr boole borg carson cerf clarke cohen cori curie darwin diffie dijkstra
easley einstein elion euclid euler fermat fermi feynman franklin galileo gauss goodall hamilton hawking heisenberg
hopper hypatia jepsen joliot kalam kapitsa kepler kilby knuth lamarr lamport leakey liskov lovelace maxwell mayer
mccarthy meitner mendel morse newton noether pascal pasteur payne perlman pike planck poincare ride ritchie sammet
shannon shaw shockley stallman tesla thompson torvalds turing villani volhard wescoff wiles wing wozniak wright`)

func pick(list []string) string {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(list))))
	if err != nil {
		return list[0]
	}
	return list[n.Int64()]
}

// takeName reserves the wanted name, or a made-up one, for id.
func (s *Service) takeName(tenant, wanted, id string) (string, error) {
	if wanted != "" {
		name := strings.TrimPrefix(wanted, "/")
		if !namePattern.MatchString(name) {
			return "", invalid("Invalid container name (%s), only %s are allowed", wanted, nameChars)
		}
		if ok, owner := s.index.reserve(tenant, name, id); !ok {
			return "", conflict("Conflict. The container name \"/%s\" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", name, owner)
		}
		return name, nil
	}
	for range 8 {
		name := pick(adjectives) + "_" + pick(nouns)
		if ok, _ := s.index.reserve(tenant, name, id); ok {
			return name, nil
		}
	}
	name := fmt.Sprintf("%s_%s_%s", pick(adjectives), pick(nouns), id[:6])
	if ok, _ := s.index.reserve(tenant, name, id); !ok {
		return "", conflict("no free container name found")
	}
	return name, nil
}
