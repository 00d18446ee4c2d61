package policy

import (
	"reflect"
	"testing"
)

func TestOrder(t *testing.T) {
	type deps struct{ after, requires []string }
	for name, tc := range map[string]struct {
		services map[string]deps
		want     map[string]deps
		problems []string
	}{
		"a chain and a diamond are fine": {
			services: map[string]deps{"a": {}, "b": {after: []string{"a"}}, "c": {requires: []string{"a"}}, "d": {after: []string{"b", "c"}}},
			want:     map[string]deps{"a": {}, "b": {after: []string{"a"}}, "c": {requires: []string{"a"}}, "d": {after: []string{"b", "c"}}},
		},
		"a name that is no service's": {
			services: map[string]deps{"redis": {}, "web": {after: []string{"redsi", "redis"}, requires: []string{"database"}}},
			want:     map[string]deps{"redis": {}, "web": {after: []string{"redis"}}},
			problems: []string{
				`web [web] annotations: keelson.after: "redsi,redis": there is no service redsi; did you mean redis?`,
				`web [web] annotations: keelson.requires: "database": there is no service database; there are redis, web`,
			},
		},
		"itself": {
			services: map[string]deps{"a": {requires: []string{"a"}}},
			want:     map[string]deps{"a": {}},
			problems: []string{`a [a] annotations: keelson.requires: "a": a cycle: a -> a: none of them could be the first; take one of these out`},
		},
		"a cycle of three, by both keys, and who hangs on it": {
			services: map[string]deps{
				"a": {after: []string{"z", "b"}}, "b": {requires: []string{"c"}}, "c": {requires: []string{"a", "z"}},
				"out": {requires: []string{"a"}}, "z": {},
			},
			want: map[string]deps{
				"a": {after: []string{"z"}}, "b": {}, "c": {requires: []string{"z"}},
				"out": {requires: []string{"a"}}, "z": {},
			},
			problems: []string{`a [a b c] annotations: keelson.after: "z,b": a cycle: a -> b -> c -> a: none of them could be the first; take one of these out`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			services := map[string]Service{}
			for n, d := range tc.services {
				services[n] = Service{After: d.after, Requires: d.requires}
			}
			var problems []string
			for _, p := range Order(services) {
				members := "["
				for i, m := range p.Members {
					if i > 0 {
						members += " "
					}
					members += m
				}
				problems = append(problems, p.Service+" "+members+"] "+p.Error())
			}
			if !reflect.DeepEqual(problems, tc.problems) {
				t.Errorf("problems:\n%q, want\n%q", problems, tc.problems)
			}
			for n, want := range tc.want {
				if s := services[n]; len(s.After) != len(want.after) || len(s.Requires) != len(want.requires) ||
					len(want.after) > 0 && !reflect.DeepEqual(s.After, want.after) || len(want.requires) > 0 && !reflect.DeepEqual(s.Requires, want.requires) {
					t.Errorf("%s is left with after %q, requires %q; want %+v", n, s.After, s.Requires, want)
				}
			}
		})
	}
}
