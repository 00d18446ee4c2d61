package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"keelson/internal/typo"
)

// OrderProblem is an order between services that cannot be.
type OrderProblem struct {
	Service string   // whose annotation Problem is about
	Members []string // every service that it concerns, in alphabetical order
	Problem
}

// Order looks at what the services say of one another in After and Requires. A
// name that is no service's, and every order within a cycle, is a problem and is
// taken out of what the map says, so that what is left can be followed: an
// appliance must boot.
func Order(services map[string]Service) []OrderProblem {
	var problems []OrderProblem
	names := slices.Sorted(maps.Keys(services))
	for _, name := range names {
		s := services[name]
		for _, k := range orderKeys(&s) {
			value := strings.Join(*k.list, ",")
			for _, other := range slices.Clone(*k.list) {
				if _, ok := services[other]; !ok {
					problems = append(problems, OrderProblem{name, []string{name}, Problem{k.name, value, noService(other, names)}})
					*k.list = without(*k.list, other)
				}
			}
		}
		services[name] = s
	}
	for _, members := range cycles(names, services) {
		inside := func(n string) bool { return slices.Contains(members, n) }
		path := cyclePath(members, services)
		s := services[path[0]]
		key, value := "", ""
		for _, k := range orderKeys(&s) {
			if slices.Contains(*k.list, path[1]) {
				key, value = k.name, strings.Join(*k.list, ",")
			}
		}
		want := fmt.Sprintf("a cycle: %s: none of them could be the first; take one of these out", strings.Join(path, " -> "))
		problems = append(problems, OrderProblem{path[0], members, Problem{key, value, want}})
		for _, name := range members {
			s := services[name]
			for _, k := range orderKeys(&s) {
				*k.list = slices.DeleteFunc(slices.Clone(*k.list), inside)
			}
			services[name] = s
		}
	}
	return problems
}

type orderKey struct {
	name string
	list *[]string
}

func orderKeys(s *Service) []orderKey {
	return []orderKey{{"keelson.after", &s.After}, {"keelson.requires", &s.Requires}}
}

func without(list []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
}

func noService(name string, names []string) string {
	if best := typo.Nearest(name, names, max(1, len(name)/3)); best != "" {
		return fmt.Sprintf("there is no service %s; did you mean %s?", name, best)
	}
	return fmt.Sprintf("there is no service %s; there are %s", name, strings.Join(names, ", "))
}

func before(s Service) []string { return append(slices.Clone(s.Requires), s.After...) }

// cycles returns the sets of services of which each is reached from each other
// one, by Tarjan's algorithm; a service alone is one if it names itself.
func cycles(names []string, services map[string]Service) [][]string {
	var found [][]string
	index, low, onStack := map[string]int{}, map[string]int{}, map[string]bool{}
	var stack []string
	var visit func(string)
	visit = func(name string) {
		index[name] = len(index) + 1
		low[name] = index[name]
		stack = append(stack, name)
		onStack[name] = true
		self := false
		for _, other := range before(services[name]) {
			self = self || other == name
			if index[other] == 0 {
				visit(other)
				low[name] = min(low[name], low[other])
			} else if onStack[other] {
				low[name] = min(low[name], index[other])
			}
		}
		if low[name] != index[name] {
			return
		}
		at := slices.Index(stack, name)
		members := slices.Sorted(slices.Values(stack[at:]))
		stack = stack[:at]
		for _, m := range members {
			onStack[m] = false
		}
		if len(members) > 1 || self {
			found = append(found, members)
		}
	}
	for _, name := range names {
		if index[name] == 0 {
			visit(name)
		}
	}
	return found
}

// cyclePath returns a shortest way from the first member back to itself, both
// ends included.
func cyclePath(members []string, services map[string]Service) []string {
	from := members[0]
	came := map[string]string{}
	for queue := []string{from}; ; queue = queue[1:] {
		for _, other := range before(services[queue[0]]) {
			if !slices.Contains(members, other) {
				continue
			}
			if other == from {
				path := []string{from}
				for at := queue[0]; at != from; at = came[at] {
					path = append(path, at)
				}
				path = append(path, from)
				slices.Reverse(path)
				return path
			}
			if _, seen := came[other]; !seen {
				came[other] = queue[0]
				queue = append(queue, other)
			}
		}
	}
}
