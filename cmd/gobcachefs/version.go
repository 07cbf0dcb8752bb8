package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// version is set by the linker for releases.
var version = ""

func newVersionCmd(a *app) *cobra.Command {
	var json bool
	c := a.command(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
	}, func(context.Context, []string) error {
		if json {
			return a.writeJSON(map[string]string{
				"version":      versionString(),
				"go":           runtime.Version(),
				"metadata_min": ondisk.VersionMinMount.String(),
				"metadata_max": ondisk.VersionMax.String(),
			})
		}
		_, err := fmt.Fprintln(a.out, versionString())
		return err
	})
	jsonFlag(c, &json)
	return c
}

// versionString is the release, or else the commit that the binary was built from.
func versionString() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
