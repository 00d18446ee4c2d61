package supervise

import "testing"

func TestLogBounds(t *testing.T) {
	const ram = 1000 << 20
	for cmdline, want := range map[string]logBounds{
		"console=ttyS0": {1 << 20, 50 << 20},
		"keelson.log.ring=16M keelson.log.total=100m":  {16 << 20, 100 << 20},
		"keelson.log.ring=600000 keelson.log.total=2%": {600000, 20 << 20},
		"keelson.log.ring=1G":                          {1 << 20, 50 << 20},
		"keelson.log.ring=1K":                          {1 << 20, 50 << 20},
		"keelson.log.ring=":                            {1 << 20, 50 << 20},
		"keelson.log.total=-5":                         {1 << 20, 50 << 20},
	} {
		got, wrong := readLogBounds(cmdline, ram)
		if got != want {
			t.Errorf("%s: %+v, want %+v", cmdline, got, want)
		}
		if bad := want == (logBounds{1 << 20, 50 << 20}) && cmdline != "console=ttyS0"; bad != (len(wrong) == 1) {
			t.Errorf("%s: %v", cmdline, wrong)
		}
	}
}
