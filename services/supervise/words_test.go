package supervise

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"keelson/internal/console"
	"keelson/services/forward"
)

func TestReadWords(t *testing.T) {
	for _, tc := range []struct {
		cmdline string
		want    words
		wrong   string
	}{
		{"console=ttyS0 quiet", words{}, "[]"},
		{"keelson.log=warn linuxkit.runc_console=1 linuxkit.runc_debug=1", words{level: console.Warn, runcConsole: true, runcDebug: true}, "[]"},
		{"linuxkit.runc_console=1 linuxkit.runc_console=0", words{}, "[]"},
		{"keelson.log.forward=udp://log.example", words{forward: []forward.Target{{Kind: "udp", Address: "log.example:514"}}}, "[]"},
		{"keelson.sysctl=off keelson.kexec=off keelson.modules=boot", words{sysctlOff: true, kexecOff: true, modulesBoot: true}, "[]"},
		{"keelson.sysctl=off keelson.modules=boot keelson.sysctl=on keelson.modules=on", words{}, "[]"},
		{"keelson.modules=early", words{modulesEarly: true}, "[]"},
		{"keelson.modules=boot,early", words{modulesBoot: true, modulesEarly: true}, "[]"},
		{"keelson.modules=boot,late", words{}, "[kernel command line: keelson.modules=boot,late: must be on, boot, early, or boot,early]"},
		{"keelson.modules=off", words{}, "[kernel command line: keelson.modules=off: must be on, boot, early, or boot,early]"},
		{"keelson.log=all linuxkit.runc_debug=yes linuxkit.runc_console", words{},
			"[kernel command line: keelson.log=all is none of keelson.log=debug, keelson.log=info, keelson.log=warn" +
				" kernel command line: linuxkit.runc_debug=yes is neither linuxkit.runc_debug=1 nor linuxkit.runc_debug=0" +
				" kernel command line: linuxkit.runc_console is neither linuxkit.runc_console=1 nor linuxkit.runc_console=0]"},
	} {
		got, wrong := readWords(tc.cmdline)
		if !reflect.DeepEqual(got, tc.want) || fmt.Sprint(wrong) != tc.wrong {
			t.Errorf("%s: got %+v, %v", tc.cmdline, got, wrong)
		}
	}
}

func TestContainerdOptions(t *testing.T) {
	debug := words{runcDebug: true}
	for _, tc := range []struct {
		w           words
		given, want []string
	}{
		{words{}, []string{"--foo"}, []string{"--foo"}},
		{debug, []string{"--foo"}, []string{"--foo", "--log-level", "debug"}},
		{debug, []string{"--log-level=info"}, []string{"--log-level=info"}},
		{debug, []string{"-l", "info"}, []string{"-l", "info"}},
	} {
		if got := tc.w.containerdOptions(tc.given); !slices.Equal(got, tc.want) {
			t.Errorf("%v: got %q", tc, got)
		}
	}
}
