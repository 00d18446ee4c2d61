package config

// kind is what a value must be.
type kind int

const (
	kString kind = iota
	kBool
	kInt
	kID     // a string or a number
	kText   // a string, which may be written as a number
	kStrMap // any keys, string values
	kList   // of elem
	kMap    // of fields
)

// schema describes one value; a map's keys are closed.
type schema struct {
	kind     kind
	elem     *schema
	fields   map[string]*schema
	required []string
	check    func(c *checker, field string, n *value)
}

func str(check ...func(*checker, string, *value)) *schema {
	s := &schema{kind: kString}
	if len(check) > 0 {
		s.check = check[0]
	}
	return s
}

func list(elem *schema) *schema              { return &schema{kind: kList, elem: elem} }
func object(f map[string]*schema) *schema    { return &schema{kind: kMap, fields: f} }
func ints(names ...string) *schema           { return object(fieldsOf(integer, names)) }
func need(s *schema, keys ...string) *schema { s.required = keys; return s }

func checked(s *schema, check func(*checker, string, *value)) *schema {
	s.check = check
	return s
}

func fieldsOf(s *schema, names []string) map[string]*schema {
	f := map[string]*schema{}
	for _, n := range names {
		f[n] = s
	}
	return f
}

var (
	boolean = &schema{kind: kBool}
	integer = &schema{kind: kInt}
	strs    = list(str())
	strMap  = &schema{kind: kStrMap}
	userID  = &schema{kind: kID, check: checkID}

	idMapping = ints("hostID", "containerID", "size")

	mountFields = map[string]*schema{
		"destination": str(), "type": str(), "source": str(), "options": strs,
		"uidmappings": list(idMapping), "gidmappings": list(idMapping),
	}

	device = checked(need(object(map[string]*schema{
		"path": str(), "type": str(oneOf("a", "b", "c", "p", "u")), "major": integer, "minor": integer, "mode": str(checkOctal),
	}), "path"), checkDevice)

	rateDevices = list(ints("major", "minor", "rate"))

	resources = object(map[string]*schema{
		"devices": list(object(map[string]*schema{
			"allow": boolean, "type": str(oneOf("a", "b", "c")), "major": integer, "minor": integer, "access": str(),
		})),
		"memory": object(map[string]*schema{
			"limit": integer, "reservation": integer, "swap": integer, "kernel": integer, "kernelTCP": integer,
			"swappiness": integer, "disableOOMKiller": boolean,
		}),
		"cpu": object(map[string]*schema{
			"shares": integer, "quota": integer, "period": integer, "realtimeRuntime": integer, "realtimePeriod": integer,
			"cpus": str(), "mems": str(),
		}),
		"pids": ints("limit"),
		"blockio": object(map[string]*schema{
			"weight": integer, "leafWeight": integer,
			"weightDevice":          list(ints("major", "minor", "weight", "leafWeight")),
			"throttleReadBpsDevice": rateDevices, "throttleWriteBpsDevice": rateDevices,
			"throttleReadIOPSDevice": rateDevices, "throttleWriteIOPSDevice": rateDevices,
		}),
		"hugepageLimits": list(object(map[string]*schema{"pageSize": {kind: kText}, "limit": integer})),
		"network": object(map[string]*schema{
			"classID": integer, "priorities": list(object(map[string]*schema{"name": str(), "priority": integer})),
		}),
	})

	runtimeSchema = object(map[string]*schema{
		"cgroups": strs,
		"mounts":  list(object(mountFields)),
		"mkdir":   strs,
		"interfaces": list(need(object(map[string]*schema{
			"name": str(), "add": str(), "peer": str(), "createInRoot": boolean,
		}), "name")),
		"bindNS": object(fieldsOf(str(), []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"})),
		// runc and containerd take a namespace as a part of a path.
		"namespace": str(checkNamespace),
	})

	kernelSchema = object(map[string]*schema{
		"image": str(checkImage), "cmdline": str(checkCmdline), "binary": str(), "tar": str(), "ucode": str(),
	})

	fileSchema = checked(need(object(map[string]*schema{
		"path": str(), "directory": boolean, "symlink": str(), "contents": str(), "source": str(),
		"metadata": str(oneOf("json", "yaml")), "optional": boolean, "mode": str(checkOctal), "uid": userID, "gid": userID,
	}), "path"), checkFile)

	volumeSchema = need(object(map[string]*schema{
		"name": str(checkVolumeName), "image": str(checkImage), "readonly": boolean,
		"format": str(oneOf("filesystem", "oci")), "platforms": checked(list(str()), checkPlatforms),
	}), "name")
)

// containerFields are the keys of an image section that a label may have too.
func containerFields() map[string]*schema {
	f := fieldsOf(strs, []string{"command", "env", "maskedPaths", "readonlyPaths"})
	for _, k := range []string{"cwd", "hostname"} {
		f[k] = str()
	}
	f["cgroupsPath"] = str(checkCgroupsPath)
	for k := range namespaceWords {
		f[k] = str(checkJoined(k))
	}
	for _, k := range []string{"capabilities", "capabilities.add", "ambient"} {
		f[k] = checked(list(str()), checkCapabilities)
	}
	f["rootfsPropagation"] = str(oneOf("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"))
	f["mounts"] = list(checked(object(mountFields), checkMount))
	f["binds"], f["binds.add"] = list(str(checkBind)), list(str(checkBind))
	f["tmpfs"] = list(str(checkTmpfs))
	f["devices"] = list(device)
	f["readonly"], f["noNewPrivileges"] = boolean, boolean
	f["oomScoreAdj"] = checked(&schema{kind: kInt}, checkOOM)
	f["uid"], f["gid"], f["additionalGids"] = userID, userID, list(userID)
	f["resources"] = resources
	f["rlimits"] = list(str(checkRlimit))
	f["uidMappings"], f["gidMappings"] = checked(list(idMapping), checkMappings), checked(list(idMapping), checkMappings)
	f["sysctl"] = strMap
	f["annotations"] = checked(&schema{kind: kStrMap}, checkAnnotations)
	f["runtime"] = runtimeSchema
	return f
}

func containerSchema() *schema { return object(containerFields()) }

func imageSchema(name func(*checker, string, *value)) *schema {
	f := containerFields()
	f["name"], f["image"] = str(name), str(checkImage)
	return need(object(f), "name", "image")
}

func rootSchema() *schema {
	return object(map[string]*schema{
		"kernel":     kernelSchema,
		"init":       list(str(checkImage)),
		"onboot":     list(imageSchema(checkOneShotName)),
		"onshutdown": list(imageSchema(checkOneShotName)),
		"services":   list(imageSchema(checkServiceName)),
		"files":      list(fileSchema),
		"volumes":    list(volumeSchema),
		// Docker Content Trust: accepted, and without effect today.
		"trust": object(map[string]*schema{"image": strs, "org": strs}),
	})
}
