package diff

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"keelson/internal/visible"
)

// fields is how two JSON texts differ, a line for each field; nothing if one of them
// is none.
func fields(a, b []byte) []string {
	var from, to any
	if a == nil || b == nil || json.Unmarshal(a, &from) != nil || json.Unmarshal(b, &to) != nil {
		return nil
	}
	var list []string
	walk(&list, "", from, to)
	return list
}

// short is how long a list of words may be to be shown as a whole.
const short = 80

func walk(list *[]string, path string, a, b any) {
	from, to := compact(a), compact(b)
	if from == to {
		return
	}
	if mapA, mapB := object(a), object(b); mapA != nil && mapB != nil {
		walkMaps(list, mapA, mapB, func(key string) string { return strings.TrimPrefix(path+"."+key, ".") })
		return
	}
	listA, okA := a.([]any)
	listB, okB := b.([]any)
	namedA, namedB := named(listA), named(listB)
	switch {
	case !okA || !okB, namedA == nil && namedB == nil && len(from) <= short && len(to) <= short:
		add(list, path, from+" -> "+to)
	case namedA != nil && namedB != nil:
		before := len(*list)
		walkMaps(list, namedA, namedB, func(key string) string { return path + "[" + key + "]" })
		if len(*list) == before {
			add(list, path, "in another order")
		}
	default:
		removed, added := without(listA, listB), without(listB, listA)
		for _, v := range removed {
			add(list, path, "removed "+v)
		}
		for _, v := range added {
			add(list, path, "added "+v)
		}
		if len(removed)+len(added) == 0 {
			add(list, path, "in another order")
		}
	}
}

func add(list *[]string, path, what string) {
	*list = append(*list, visible.Text(path+": "+what))
}

func walkMaps(list *[]string, a, b map[string]any, path func(key string) string) {
	keys := maps.Clone(a)
	maps.Copy(keys, b)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		va, inA := a[key]
		vb, inB := b[key]
		switch {
		case !inA:
			add(list, path(key), "added "+compact(vb))
		case !inB:
			add(list, path(key), "removed "+compact(va))
		default:
			walk(list, path(key), va, vb)
		}
	}
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// named is a list of objects by what names each of them, such as a mount's destination;
// nil for another list, and for one in which two have one name.
func named(list []any) map[string]any {
	for _, key := range []string{"destination", "path", "name", "type"} {
		m := map[string]any{}
		for _, v := range list {
			name, _ := object(v)[key].(string)
			if name != "" {
				m[name] = v // two with one name make it shorter than the list
			}
		}
		if len(list) > 0 && len(m) == len(list) {
			return m
		}
	}
	return nil
}

// without returns what of list is not in other, each as often as it is more.
func without(list, other []any) []string {
	have := map[string]int{}
	for _, v := range other {
		have[compact(v)]++
	}
	var rest []string
	for _, v := range list {
		text := compact(v)
		if have[text]--; have[text] < 0 {
			rest = append(rest, text)
		}
	}
	return rest
}

// compact is a value in one line, the keys of objects sorted.
func compact(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // it came out of JSON
	return strings.TrimSuffix(b.String(), "\n")
}
