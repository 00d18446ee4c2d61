package policy

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// Every key is in the table that users read, with a first value that is its default.
func TestDocsShowEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(keelson[a-z.-]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(string(text), -1) {
		rows[row[1]] = append(rows[row[1]], row[2])
	}
	first := regexp.MustCompile("^`([^`]+)`")
	for _, k := range serviceKeys {
		if len(rows[k.name]) == 0 {
			t.Errorf("%s is not in the table", k.name)
			continue
		}
		value := first.FindStringSubmatch(rows[k.name][0])
		if value == nil { // a list, whose default is none
			continue
		}
		p := DefaultService()
		if !k.set(&p, value[1]) {
			t.Errorf("%s: the table's first value %s is refused", k.name, value[1])
		}
		want := DefaultService()
		p.Ready.text, p.Health.Check.text = "", ""
		if !reflect.DeepEqual(p, want) {
			t.Errorf("%s: the table's first value %s is not the default", k.name, value[1])
		}
	}
	for _, k := range oneShotKeys {
		if len(rows[k.name]) == 0 {
			t.Errorf("%s is not in the table", k.name)
		}
	}
	for name := range rows {
		known := strings.HasPrefix(name, "keelson.shutdown")
		for _, k := range serviceKeys {
			known = known || k.name == name
		}
		for _, k := range oneShotKeys {
			known = known || k.name == name
		}
		if !known {
			t.Errorf("%s is in the table and nowhere else", name)
		}
	}
}
