package main

import (
	"context"
	"fmt"
	"strings"
)

// Walls is what the hardening of containers adds to what they cost without it.
type Walls struct {
	Start  float64 `json:"start_s"`   // of each further service
	Memory float64 `json:"memory_mb"` // of twenty services, without free pages per CPU
}

// unhardened is a shape whose containers are as LinuxKit would make them.
func unhardened(yaml string) string {
	return strings.Replace(yaml, "console=ttyS0 quiet", "console=ttyS0 quiet keelson.harden=linuxkit", 1)
}

// walls measures m5 and m20 without hardening, beside the two with it.
func (b *bench) walls(ctx context.Context, offset float64, m5, m20 *Shape) (*Walls, error) {
	var few, many Shape
	for _, s := range []struct {
		services int
		shape    *Shape
	}{{5, &few}, {20, &many}} {
		say("m%d without hardening: time", s.services)
		if _, err := b.times(ctx, fmt.Sprintf("m%d-linuxkit", s.services), s.services, unhardened(shape(s.services, "")), offset, s.shape); err != nil {
			return nil, err
		}
	}
	say("m20 without hardening: memory")
	if err := b.memory(ctx, "m20-linuxkit-memory", unhardened(shape(20, probe(memoryScript))), &many); err != nil {
		return nil, err
	}
	return &Walls{
		Start:  each(m5, m20) - each(&few, &many),
		Memory: (m20.MemoryUsed - m20.PerCPU) - (many.MemoryUsed - many.PerCPU),
	}, nil
}

// each is what a further service costs, from m5 to m20.
func each(m5, m20 *Shape) float64 { return (m20.AllUp - m5.AllUp) / 15 }

// measureWalls measures only what the walls cost.
func (b *bench) measureWalls(ctx context.Context) (*Result, error) {
	offset, err := b.prepare(ctx)
	if err != nil {
		return nil, err
	}
	r := new(Result)
	for _, s := range []struct {
		services int
		shape    *Shape
	}{{5, &r.M5}, {20, &r.M20}} {
		say("m%d: time", s.services)
		if _, err := b.times(ctx, fmt.Sprintf("m%d", s.services), s.services, shape(s.services, ""), offset, s.shape); err != nil {
			return nil, err
		}
	}
	say("m20: memory")
	if err := b.memory(ctx, "m20-memory", shape(20, probe(memoryScript)), &r.M20); err != nil {
		return nil, err
	}
	r.Walls, err = b.walls(ctx, offset, &r.M5, &r.M20)
	return r, err
}
