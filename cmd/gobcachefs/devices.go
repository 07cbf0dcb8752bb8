package main

import (
	"os"
	"strings"
)

// splitDevices returns the devices that the arguments name: each is one, or several joined by colons. An argument that
// exists as it stands is one device, whatever colons it has in it.
func splitDevices(args []string) ([]string, error) {
	var devices []string
	for _, arg := range args {
		if arg == "" {
			return nil, usagef("a device's name is empty")
		}
		parts := []string{arg}
		if strings.Contains(arg, ":") {
			if _, err := os.Lstat(arg); err != nil {
				parts = strings.Split(arg, ":")
			}
		}
		for _, p := range parts {
			if p == "" {
				return nil, usagef("%q has an empty device in it", arg)
			}
			for _, d := range devices {
				if d == p {
					return nil, usagef("device %s is given twice", p)
				}
			}
			devices = append(devices, p)
		}
	}
	return devices, nil
}

// isUUID reports whether a device is given as all that hold the filesystem with a UUID, as in fstab(5).
func isUUID(device string) bool { return strings.HasPrefix(device, "UUID=") }
